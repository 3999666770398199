/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The upstream's life and its thread, see upstream_priv.h.
 *
 *	judge ──same──────────────────────► watch, attend ──► (left) ──► judge
 *	  └────other, compacted ──► list ────►┘
 *
 * Whatever fails goes to the board, and after a back-off it begins again, for ever.
 */
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/diag.h"
#include "base/panic.h"
#include "mirror/upstream_priv.h"

#define BACKOFF_MIN_MS 50
#define BACKOFF_MAX_MS 2000

int64_t dpa_now_ms(void)
{
	return ks_clock_now(ks_clock_system());
}

bool dpa_upstream_stopping(struct dpa_upstream *up)
{
	bool stopping;

	ks_mutex_lock(&up->lock);
	stopping = up->stopping;
	ks_mutex_unlock(&up->lock);
	return stopping;
}

void dpa_upstream_settle(struct dpa_upstream *up)
{
	ks_mutex_lock(&up->lock);
	up->settled = true;
	ks_cond_broadcast(&up->changed);
	ks_mutex_unlock(&up->lock);
}

/* gRPC has one code for all that keeps it from connecting; its text has OpenSSL's. */
static bool is_tls(const char *text)
{
	static const char *const words[] = {"handshake", "certificate", "SSL", "TLS"};

	for (size_t i = 0; i < sizeof(words) / sizeof(words[0]); i++)
		if (strstr(text, words[i]))
			return true;
	return false;
}

static void report(struct dpa_upstream *up, const struct ks_err *err)
{
	ks_mutex_lock(&up->lock);
	up->connected = false;
	ks_mutex_unlock(&up->lock);
	if (!up->failing)
		KS_DIAG_LIMITED(KS_WARN, "upstream", "not connected: %s: %s", ks_status_name(err->status), err->text);
	up->failing = true;
	dpa_board_connected(up->config.board, false, err->text);
	if (is_tls(err->text))
		dpa_board_alarm(up->config.board, DPA_ALARM_UPSTREAM_TLS, err->text);
}

static enum ks_status turn(struct dpa_upstream *up, struct ks_err *err)
{
	enum dpa_verdict verdict;
	enum ks_status status = dpa_judge(up, &verdict, err);

	if (status == KS_OK && (verdict != DPA_SAME || up->must_list))
		status = dpa_list(up, verdict != DPA_OTHER, err);
	if (status == KS_OK)
		status = dpa_attend(up, err);
	return status;
}

static void pause_after_failure(struct dpa_upstream *up)
{
	int64_t until_ms = dpa_now_ms() + ks_backoff_failed(&up->backoff), left_ms;

	ks_mutex_lock(&up->lock);
	while (!up->stopping && (left_ms = until_ms - dpa_now_ms()) > 0)
		(void)ks_cond_wait(&up->changed, &up->lock, left_ms);
	ks_mutex_unlock(&up->lock);
}

static void *run(void *arg)
{
	struct dpa_upstream *up = arg;

	while (!dpa_upstream_stopping(up)) {
		struct ks_err err = {.status = KS_OK};

		if (turn(up, &err) == KS_OK || dpa_upstream_stopping(up))
			continue;
		report(up, &err);
		pause_after_failure(up);
	}
	return NULL;
}

static void upstream_free(struct dpa_upstream *up)
{
	ks_cond_fini(&up->changed);
	ks_mutex_fini(&up->lock);
	free(up->changes);
	free(up->prefix_memory);
	free(up);
}

struct dpa_upstream *dpa_upstream_start(const struct dpa_upstream_config *config, struct ks_err *err)
{
	struct dpa_upstream *up = ks_xcalloc(1, sizeof(*up));

	up->config = *config;
	ks_mutex_init(&up->lock);
	ks_cond_init(&up->changed);
	up->prefix = dpa_prefix_interval(dpa_replica_prefix(config->replica), &up->prefix_memory);
	ks_backoff_init(&up->backoff, BACKOFF_MIN_MS, BACKOFF_MAX_MS, (uint64_t)(uintptr_t)up ^ (uint64_t)dpa_now_ms());
	up->verify_at_ms = dpa_now_ms() + config->verify_interval_ms;
	if (ks_thread_start(&up->thread, "upstream", run, up, err) == KS_OK)
		return up;
	upstream_free(up);
	return NULL;
}

bool dpa_upstream_wait(struct dpa_upstream *up, int64_t wait_ms)
{
	int64_t until_ms = dpa_now_ms() + wait_ms, left_ms;
	bool settled;

	ks_mutex_lock(&up->lock);
	while (!up->settled && !up->stopping && (left_ms = until_ms - dpa_now_ms()) > 0)
		(void)ks_cond_wait(&up->changed, &up->lock, left_ms);
	settled = up->settled;
	ks_mutex_unlock(&up->lock);
	return settled;
}

bool dpa_upstream_accept_empty(struct dpa_upstream *up)
{
	bool held;

	ks_mutex_lock(&up->lock);
	held = up->held;
	up->accept_once |= held;
	up->refilled |= held;
	ks_cond_broadcast(&up->changed);
	ks_mutex_unlock(&up->lock);
	return held;
}

bool dpa_upstream_connected(struct dpa_upstream *up)
{
	bool connected;

	ks_mutex_lock(&up->lock);
	connected = up->connected;
	ks_mutex_unlock(&up->lock);
	return connected;
}

void dpa_upstream_stop(struct dpa_upstream *up)
{
	if (!up)
		return;
	ks_mutex_lock(&up->lock);
	up->stopping = true;
	if (up->call)
		dpa_call_abandon(up->call);
	ks_cond_broadcast(&up->changed);
	ks_mutex_unlock(&up->lock);
	ks_thread_join(up->thread);
	upstream_free(up);
}
