/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The contract of sqlb.h in RAM, with faults and a clock that tests control. The state machine is tested and simulated
 * on it, so it is as strict as the strictest database and does nothing by itself: no thread, no random number, and time
 * moves only when somebody asks for it.
 *
 * A named database is one mutex, one sorted array of immutable counted rows, and three small sorted arrays. Reads
 * collect references under the mutex (the snapshot) and call visitors without it. An append whose answer comes "late"
 * waits as a deep copy in 'late' until enough other calls have passed, and is then tried like any other.
 *
 * An append that was sent waits as a deep copy in its connection, and is tried when it is received. When the connection is
 * lost before that, its session may live on without it: then what was sent goes to 'late', in that order.
 */
#include <stdlib.h>

#include "memory_priv.h"
#include "url.h"

static struct {
	pthread_mutex_t mutex;
	struct mem_database *first;
} all = {.mutex = PTHREAD_MUTEX_INITIALIZER};

/* ---- databases by name ---- */

static struct mem_database *database_new(const char *name)
{
	struct mem_database *database = ks_xcalloc(1, sizeof(*database));

	database->name = ks_xstrdup(name);
	database->refs = 1;
	ks_mutex_init(&database->mutex);
	ks_cond_init(&database->changed);
	database->clock = ks_clock_system();
	ks_list_init(&database->late);
	database->duty_term = 1;
	return database;
}

struct mem_database *sqlb_mem_database_get(const char *name, bool count)
{
	struct mem_database *database;

	pthread_mutex_lock(&all.mutex);
	for (database = all.first; database && strcmp(database->name, name) != 0; database = database->next)
		;
	if (!database) {
		database = database_new(name);
		database->next = all.first;
		all.first = database;
	}
	database->refs += count;
	pthread_mutex_unlock(&all.mutex);
	return database;
}

static void database_unref(struct mem_database *database)
{
	unsigned refs;
	struct ks_list *link;

	pthread_mutex_lock(&all.mutex);
	refs = --database->refs;
	pthread_mutex_unlock(&all.mutex);
	if (refs)
		return;
	while ((link = ks_list_pop(&database->late)))
		sqlb_mem_waiting_free(ks_container_of(link, struct mem_waiting, link));
	sqlb_mem_rows_free(database->rows, database->row_count);
	for (size_t i = 0; i < database->member_count; i++)
		sqlb_mem_member_clear(&database->members[i]);
	free(database->members);
	free(database->leases);
	ks_cond_fini(&database->changed);
	ks_mutex_fini(&database->mutex);
	free(database->name);
	free(database);
}

void sqlb_memory_forget(const char *name)
{
	struct mem_database **at;
	struct mem_database *database;

	pthread_mutex_lock(&all.mutex);
	for (at = &all.first; *at && strcmp((*at)->name, name) != 0; at = &(*at)->next)
		;
	database = *at;
	if (database)
		*at = database->next;
	pthread_mutex_unlock(&all.mutex);
	if (database)
		database_unref(database);
}

/* ---- the vtable ---- */

static enum ks_status memory_open(const char *url, const char *data_dir, struct sqlb_db **db, struct ks_err *err)
{
	char scheme[16];
	const char *name;

	(void)data_dir;
	*db = NULL;
	if (!sqlb_url_scheme(url, scheme, sizeof(scheme), &name) || strcmp(scheme, "memory") != 0)
		return ks_fail(err, KS_INVALID_ARGUMENT, "this endpoint must look like memory://NAME");
	*db = ks_xcalloc(1, sizeof(**db));
	(*db)->database = sqlb_mem_database_get(name, true);
	return KS_OK;
}

static void memory_close(struct sqlb_db *db)
{
	if (!db)
		return;
	database_unref(db->database);
	free(db);
}

static enum sqlb_outcome memory_connect(struct sqlb_db *db, struct sqlb_conn **conn, struct ks_err *err)
{
	*conn = calloc(1, sizeof(**conn));
	if (!*conn)
		return sqlb_mem_no_memory(err);
	(*conn)->database = db->database;
	ks_list_init(&(*conn)->sent);
	return SQLB_OK;
}

static void memory_disconnect(struct sqlb_conn *conn)
{
	if (!conn)
		return;
	ks_mutex_lock(&conn->database->mutex);
	while (!ks_list_empty(&conn->sent))
		sqlb_mem_sent_lose_locked(conn, SQLB_FAULT_NONE);
	ks_mutex_unlock(&conn->database->mutex);
	free(conn);
}

static enum sqlb_outcome memory_migrate(struct sqlb_conn *conn, uint64_t *cluster_id, struct ks_err *err)
{
	enum sqlb_memory_fault fault;
	enum sqlb_outcome outcome = sqlb_mem_begin(conn, "migrate", &fault, err);
	uint64_t hash = 14695981039346656037u; /* FNV-1a of the name: the same in every run */

	if (outcome != SQLB_OK)
		return outcome;
	for (const char *p = conn->database->name; *p; p++)
		hash = (hash ^ (uint8_t)*p) * 1099511628211u;
	*cluster_id = hash ? hash : 1;
	return sqlb_mem_end(conn, "migrate", fault, err);
}

static enum sqlb_outcome memory_size(struct sqlb_conn *conn, struct sqlb_size *size, struct ks_err *err)
{
	enum sqlb_memory_fault fault;
	enum sqlb_outcome outcome = sqlb_mem_begin(conn, "size", &fault, err);

	if (outcome != SQLB_OK)
		return outcome;
	size->allocated = conn->database->bytes_allocated;
	size->in_use = conn->database->bytes_in_use;
	return sqlb_mem_end(conn, "size", fault, err);
}

static enum sqlb_outcome memory_defragment(struct sqlb_conn *conn, bool full, struct ks_err *err)
{
	enum sqlb_memory_fault fault;
	enum sqlb_outcome outcome = sqlb_mem_begin(conn, "defragment", &fault, err);

	(void)full;
	if (outcome != SQLB_OK)
		return outcome;
	conn->database->bytes_allocated = conn->database->bytes_in_use;
	return sqlb_mem_end(conn, "defragment", fault, err);
}

const struct sqlb_ops sqlb_memory_ops = {
	.version = SQLB_VERSION,
	.name = "memory",
	.schemes = {"memory"},
	.features = SQLB_NOTIFIES,
	.open = memory_open,
	.close = memory_close,
	.connect = memory_connect,
	.disconnect = memory_disconnect,
	.migrate = memory_migrate,
	.append = sqlb_mem_append,
	.append_send = sqlb_mem_append_send,
	.append_receive = sqlb_mem_append_receive,
	.load = sqlb_mem_load,
	.read_head = sqlb_mem_read_head,
	.read_rows = sqlb_mem_read_rows,
	.read_at = sqlb_mem_read_at,
	.trim = sqlb_mem_trim,
	.wait_for_change = sqlb_mem_wait_for_change,
	.cancel = sqlb_mem_cancel,
	.lease_touch = sqlb_mem_lease_touch,
	.lease_ensure = sqlb_mem_lease_ensure,
	.lease_refresh_all = sqlb_mem_lease_refresh_all,
	.lease_list = sqlb_mem_lease_list,
	.lease_read = sqlb_mem_lease_read,
	.lease_drop = sqlb_mem_lease_drop,
	.duty_take = sqlb_mem_duty_take,
	.duty_pass = sqlb_mem_duty_pass,
	.member_beat = sqlb_mem_member_beat,
	.member_list = sqlb_mem_member_list,
	.size = memory_size,
	.defragment = memory_defragment,
};
