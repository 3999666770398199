/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Diagnostics: one line a message on stderr or elsewhere, as text or JSON. (Not called "log": log/ is the SQL log.)
 *
 * error = someone must act, warn = we cope, info = life cycle, debug = per module. The module comes first, the message
 * is stable wording followed by key=value pairs in the text. Never pass values of keys, passwords, or URLs with
 * secrets. Threads: any; a message is one write(2). Messages of one call site that a peer can trigger go
 * through KS_DIAG_LIMITED, which passes at most one a second and says how many it swallowed.
 */
#ifndef KS_BASE_DIAG_H
#define KS_BASE_DIAG_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/status.h"

enum ks_diag_level { KS_DEBUG, KS_INFO, KS_WARN, KS_ERROR };
enum ks_diag_format { KS_DIAG_JSON, KS_DIAG_TEXT };

struct ks_diag_limit {
	_Atomic int64_t next_ms;
	_Atomic uint32_t swallowed;
};

void ks_diag_setup(enum ks_diag_level least, enum ks_diag_format format);
/*
 * Where lines go, separated by commas: "stderr" (also as "default" and "systemd/journal"), "stdout", or files that are appended
 * to. Before the first thread starts. Reopen (any thread) opens files anew that were moved away.
 */
enum ks_status ks_diag_open(const char *outputs, struct ks_err *err) KS_MUST_CHECK;
void ks_diag_reopen(void);
/* Parses "debug", "info", "warn", "error" ("text"/"console", "json"), and etcd's other levels; false when unknown. */
bool ks_diag_parse_level(const char *text, enum ks_diag_level *level);
bool ks_diag_parse_format(const char *text, enum ks_diag_format *format);
bool ks_diag_wants(enum ks_diag_level level);
void ks_diag(enum ks_diag_level level, const char *module, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
bool ks_diag_pass(struct ks_diag_limit *limit, uint32_t *swallowed);

#define KS_DIAG_LIMITED(level, module, ...)                                                            \
	do {                                                                                           \
		static struct ks_diag_limit limit__;                                                   \
		uint32_t swallowed__;                                                                  \
		if (ks_diag_wants(level) && ks_diag_pass(&limit__, &swallowed__)) {                    \
			if (swallowed__)                                                               \
				ks_diag(level, module, "(%u similar messages left out)", swallowed__); \
			ks_diag(level, module, __VA_ARGS__);                                           \
		}                                                                                      \
	} while (0)

#endif
