/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The MySQL and MariaDB backend (MariaDB 10.6 or newer, MySQL 8 or newer, Galera clusters of MariaDB) through MariaDB
 * Connector/C: its vtable and handles. mysql_priv.h says what is in the other files, docs/internals/mysql.md why things are as
 * they are. Nothing is held exclusively: any number of instances share one database.
 */
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "base/panic.h"
#include "mysql_priv.h"

/* Byte strings of a row: LONGBLOB has no more. */
#define SLICE_BYTES_MAX ((size_t)1 << 32)

static pthread_once_t library_once = PTHREAD_ONCE_INIT;
static bool library_ready;

/* Before the first connection, and not by two threads at once. It is never undone: other threads may be in it at exit. */
static void start_library(void)
{
	library_ready = mysql_library_init(0, NULL, NULL) == 0;
}

static enum ks_status my_open(const char *url, const char *data_dir, struct sqlb_db **db, struct ks_err *err)
{
	struct sqlb_db *new_db;
	enum ks_status status;

	(void)data_dir;
	*db = NULL;
	pthread_once(&library_once, start_library);
	if (!library_ready)
		return ks_fail(err, KS_INTERNAL, "MariaDB Connector/C does not start");
	new_db = ks_xcalloc(1, sizeof(*new_db));
	status = sqlb_my_parse_url(url, new_db, err);
	if (status == KS_OK)
		*db = new_db;
	else
		sqlb_my_free_db(new_db);
	return status;
}

static void my_disconnect(struct sqlb_conn *conn)
{
	if (!conn)
		return;
	sqlb_my_drop(conn);
	sqlb_cancel_close(&conn->cancel);
	for (size_t i = 0; i < 3; i++)
		ks_buf_fini(&conn->slices[i]);
	free(conn->binds);
	free(conn->numbers);
	sqlb_my_bulk_fini(conn);
	free(conn);
}

static enum sqlb_outcome my_connect(struct sqlb_db *db, struct sqlb_conn **conn, struct ks_err *err)
{
	struct sqlb_conn *new_conn = calloc(1, sizeof(*new_conn));

	*conn = NULL;
	if (!new_conn) {
		ks_fail(err, KS_RESOURCE_EXHAUSTED, "out of memory");
		return SQLB_AWAY;
	}
	new_conn->db = db;
	new_conn->refused_after = -1;
	for (size_t i = 0; i < 3; i++)
		ks_buf_init(&new_conn->slices[i], SLICE_BYTES_MAX);
	if (sqlb_cancel_open(&new_conn->cancel, err) != SQLB_OK) {
		free(new_conn);
		return SQLB_AWAY;
	}
	*conn = new_conn;
	return SQLB_OK;
}

const struct sqlb_ops sqlb_mysql_ops = {
	.version = SQLB_VERSION,
	.name = "mysql",
	.schemes = {"mysql", "mariadb", NULL},
	.open = my_open,
	.close = sqlb_my_free_db,
	.connect = my_connect,
	.disconnect = my_disconnect,
	.migrate = sqlb_my_migrate,
	.append = sqlb_my_append,
	.append_send = sqlb_my_append_send,
	.append_receive = sqlb_my_append_receive,
	.load = sqlb_my_load,
	.read_head = sqlb_my_read_head,
	.read_rows = sqlb_my_read_rows,
	.read_at = sqlb_my_read_at,
	.trim = sqlb_my_trim,
	.wait_for_change = sqlb_my_wait_for_change,
	.cancel = sqlb_my_cancel,
	.lease_touch = sqlb_my_lease_touch,
	.lease_ensure = sqlb_my_lease_ensure,
	.lease_refresh_all = sqlb_my_lease_refresh_all,
	.lease_list = sqlb_my_lease_list,
	.lease_read = sqlb_my_lease_read,
	.lease_drop = sqlb_my_lease_drop,
	.duty_take = sqlb_my_duty_take,
	.duty_pass = sqlb_my_duty_pass,
	.member_beat = sqlb_my_member_beat,
	.member_list = sqlb_my_member_list,
	.size = sqlb_my_size,
	.defragment = sqlb_my_defragment,
};
