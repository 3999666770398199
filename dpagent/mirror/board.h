/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the parts of the agent tell people: one struct with the state of each, read by /status, the metrics and the registration. Says changes of
 * source and connection on the log, one JSON line each on stderr whatever the log's format.
 *
 * Threads: any; a leaf lock. Texts are copied, cut to their room; secrets never get here (whoever reports an error masks it).
 */
#ifndef DPA_BOARD_H
#define DPA_BOARD_H

#include <stdbool.h>
#include <stdint.h>

struct dpa_board;

enum dpa_source { DPA_SOURCE_NONE, DPA_SOURCE_UPSTREAM, DPA_SOURCE_DISK, DPA_SOURCE_OBJECT };
const char *dpa_source_name(enum dpa_source source); /* "none", "upstream", "disk", "object-storage" */

/* Conditions that a person must see to; each is on or off, with a text. */
enum dpa_alarm {
	DPA_ALARM_DISK_INVALID, /* the newest disk image was damaged or wrongly signed: the older one was used, or none */
	DPA_ALARM_DISK_WRITE,   /* the last image could not be written (disk full) */
	DPA_ALARM_OBJECT_INVALID, /* the newest object was damaged or wrongly signed */
	DPA_ALARM_OBJECT_ACCESS,  /* object storage refuses or does not answer */
	DPA_ALARM_HELD,           /* upstream is empty, the last good configuration is held */
	DPA_ALARM_OVERLAY,        /* the overlay file is malformed: the last good one counts */
	DPA_ALARM_DISCOVERY,      /* a registry does not answer: its last known nodes count */
	DPA_ALARM_REGISTRATION,   /* upstream refuses our registration */
	DPA_ALARM_UPSTREAM_TLS,   /* upstream's or our certificate was refused */
	DPA_ALARM_COUNT
};
const char *dpa_alarm_name(enum dpa_alarm alarm); /* "disk_invalid" … */

struct dpa_status {
	enum dpa_source source;
	int64_t source_since_ms; /* wall clock */
	bool connected;
	int64_t connected_since_ms;
	char endpoint[256];                                   /* upstream in use; "" when not connected */
	char upstream_error[512];                             /* the last one; "" while connected */
	uint64_t reconnects, resyncs, verifications, repairs; /* repairs: differences that a verification found */
	struct {
		bool on;
		int64_t since_ms;
		char text[256];
	} alarms[DPA_ALARM_COUNT];
	/* The saver's. */
	int64_t disk_saved_ms, disk_revision, disk_bytes;
	uint64_t disk_writes, disk_failures;
	/* The exporter's and importer's. */
	char object[256]; /* the object written or read last */
	int64_t object_saved_ms, object_revision, object_bytes;
	uint64_t object_writes, object_reads, object_failures, object_fenced;
	/* Overlay and discovery. */
	char overlay_file[256];
	int64_t overlay_loaded_ms;
	uint64_t discovery_services, discovery_failures;
	/* Registration. */
	bool registered;
	/* Writes passed upstream. */
	uint64_t forwarded, forward_failures;
};

struct dpa_board *dpa_board_new(void);
void dpa_board_free(struct dpa_board *board);
void dpa_board_read(struct dpa_board *board, struct dpa_status *status);
/* Between begin and end 'status' may be changed; end says what is to be said. The lock is held: do nothing else. */
struct dpa_status *dpa_board_begin(struct dpa_board *board);
void dpa_board_end(struct dpa_board *board);
void dpa_board_source(struct dpa_board *board, enum dpa_source source);
/* 'text' is the endpoint when connected, the error otherwise. */
void dpa_board_connected(struct dpa_board *board, bool connected, const char *text);
/* text NULL: off. */
void dpa_board_alarm(struct dpa_board *board, enum dpa_alarm alarm, const char *text);
/* A JSON string of what may hold anything, for json_decref: what is no UTF-8, or was cut within a character, is shown without its odd bytes. NULL
 * without memory. */
struct json_t *dpa_json_text(const char *text);
/* Wall clock, ms since 1970; tests set DPAGENT_TEST_CLOCK_OFFSET_MS, to a number or a file with one. */
int64_t dpa_wall_ms(void);

#endif
