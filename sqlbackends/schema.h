/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What is the same wherever the tables are made and looked at: the rows of kineshim_meta, and the sections of a schema/NAME.sql.
 * How a database is asked, and who makes the tables when several want to, is the driver's. No state; a call belongs to the thread
 * whose connection it is.
 */
#ifndef SQLB_SCHEMA_H
#define SQLB_SCHEMA_H

#include "sqlb.h"

struct sqlb_schema_driver {
	/* The value of kineshim_meta's row of that name. */
	enum sqlb_outcome (*read)(struct sqlb_conn *conn, const char *name, char *out, size_t out_size, bool *found,
				  struct ks_err *err);
	/* BROKEN, with this as the reason. */
	enum sqlb_outcome (*broken)(struct sqlb_conn *conn, struct ks_err *err, const char *what);
};

/* Whose is kineshim_meta? *version: of our schema, at most 'newest'; 0 = no row says whose. BROKEN: another's, or too new. */
enum sqlb_outcome sqlb_schema_version(struct sqlb_conn *conn, const struct sqlb_schema_driver *driver, int newest,
				      int *version, struct ks_err *err);

enum sqlb_outcome sqlb_schema_cluster_id(struct sqlb_conn *conn, const struct sqlb_schema_driver *driver,
					 uint64_t *cluster_id, struct ks_err *err);

/*
 * The statement that notes what was made: 'from' 0 = everything, else only that the version is 'to' now. 'utc_now' is SQL for
 * created_at, 'unless' ends the INSERT where somebody may have been faster.
 */
enum { SQLB_SCHEMA_NOTE_BYTES = 500 };
void sqlb_schema_note(char sql[SQLB_SCHEMA_NOTE_BYTES], int from, int to, const char *utc_now, const char *unless);

/* What stands below the line "-- NAME" (of which there must be one) up to the next such line; for the caller to free. */
char *sqlb_schema_section(const char *schema, const char *name);
char *sqlb_schema_upgrade(const char *schema, int version); /* "-- version N" */

#endif
