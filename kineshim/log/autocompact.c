/* SPDX-License-Identifier: Apache-2.0 */
#include "log/autocompact.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/duration.h"

#define HOUR_MS INT64_C(3600000)
#define REVISION_STEP_MS INT64_C(300000)
#define STEPS_PER_INTERVAL 10

/* ---- flags ---- */

static bool read_integer(const char *text, int64_t *number)
{
	const char *digits = text + (*text == '-' || *text == '+');
	char *end;

	if (!*digits || digits[strspn(digits, "0123456789")] != '\0')
		return false;
	errno = 0;
	*number = strtoll(text, &end, 10);
	return errno == 0;
}

static enum ks_status read_retention(enum ks_autocompact_mode mode, const char *text, int64_t *retention, bool *odd,
				     struct ks_err *err)
{
	struct ks_err why = {0};

	if (read_integer(text, retention) && *retention >= 0) {
		if (mode == KS_AUTOCOMPACT_PERIODIC && __builtin_mul_overflow(*retention, KS_NS_PER_HOUR, retention))
			return ks_fail(err, KS_INVALID_ARGUMENT,
				       "error parsing CompactionRetention: %.60s hours are too many", text);
		return KS_OK;
	}
	if (ks_duration_parse(text, retention, &why) != KS_OK)
		return ks_fail(err, KS_INVALID_ARGUMENT, "error parsing CompactionRetention: %.150s", why.text);
	if (*retention < 0)
		return ks_fail(err, KS_INVALID_ARGUMENT, "error parsing CompactionRetention: %.60s is negative", text);
	*odd = mode == KS_AUTOCOMPACT_REVISION && *retention > 0;
	return KS_OK;
}

enum ks_status ks_autocompact_parse(const char *mode, const char *retention, struct ks_autocompact_config *config,
				    bool *odd, struct ks_err *err)
{
	enum ks_status status;

	*config = (struct ks_autocompact_config){0};
	*odd = false;
	if (strcmp(mode, "periodic") == 0)
		config->mode = KS_AUTOCOMPACT_PERIODIC;
	else if (strcmp(mode, "revision") == 0)
		config->mode = KS_AUTOCOMPACT_REVISION;
	else
		return ks_fail(err, KS_INVALID_ARGUMENT, "unknown auto-compaction-mode \"%.60s\"", mode);
	status = read_retention(config->mode, retention, &config->retention, odd, err);
	if (status != KS_OK || config->retention == 0)
		*config = (struct ks_autocompact_config){0};
	return status;
}

/* ---- the window ---- */

/* Without memory the sample is left out: the oldest one is then a little older than it should be. */
static void add_sample(struct ks_autocompact *ac, int64_t revision)
{
	if (ac->count == ac->window) {
		ac->first = (ac->first + 1) % ac->room;
		ac->count--;
	}
	if (ac->count == ac->room) {
		size_t room = ac->room ? 2 * ac->room : 16;
		int64_t *samples = malloc(room * sizeof(*samples));

		if (!samples)
			return;
		for (size_t i = 0; i < ac->count; i++)
			samples[i] = ac->samples[(ac->first + i) % ac->room];
		free(ac->samples);
		ac->samples = samples;
		ac->first = 0;
		ac->room = room;
	}
	ac->samples[(ac->first + ac->count++) % ac->room] = revision;
}

/* ---- the machine ---- */

void ks_autocompact_init(struct ks_autocompact *ac, const struct ks_autocompact_config *config)
{
	int64_t interval_ns, step_ns;

	*ac = (struct ks_autocompact){.config = *config};
	if (config->mode != KS_AUTOCOMPACT_PERIODIC) {
		ac->interval_ms = ac->step_ms = REVISION_STEP_MS;
		return;
	}
	interval_ns = config->retention < KS_NS_PER_HOUR ? config->retention : KS_NS_PER_HOUR;
	step_ns = interval_ns / STEPS_PER_INTERVAL;
	ac->interval_ms = interval_ns / KS_NS_PER_MS;
	ac->step_ms = step_ns / KS_NS_PER_MS > 0 ? step_ns / KS_NS_PER_MS : 1;
	ac->window = step_ns > 0 ? (size_t)(config->retention / step_ns) + 1 : STEPS_PER_INTERVAL + 1;
	ac->base_ms = config->retention / KS_NS_PER_MS;
}

void ks_autocompact_fini(struct ks_autocompact *ac)
{
	free(ac->samples);
	*ac = (struct ks_autocompact){0};
}

static void begin_wait(struct ks_autocompact *ac, int64_t now_ms, int64_t revision)
{
	if (ac->config.mode == KS_AUTOCOMPACT_PERIODIC)
		add_sample(ac, revision);
	ac->next_ms = now_ms + ac->step_ms;
}

static int64_t periodic_candidate(struct ks_autocompact *ac, int64_t now_ms)
{
	if (ac->count == 0 || now_ms - ac->last_success_ms < ac->base_ms || ac->samples[ac->first] == ac->last_revision)
		return 0;
	/* Also when it fails then: what follows is a retry, and does not wait for a whole period. */
	ac->base_ms = ac->interval_ms;
	return ac->samples[ac->first];
}

int64_t ks_autocompact_step(struct ks_autocompact *ac, int64_t now_ms, int64_t revision, bool active)
{
	int64_t candidate = 0;

	if (ac->config.mode == KS_AUTOCOMPACT_OFF || ac->trying)
		return 0;
	if (!ac->started)
		ac->last_success_ms = now_ms;
	if (!ac->started || ac->tried) {
		ac->started = true;
		ac->tried = false;
		begin_wait(ac, now_ms, revision);
		return 0;
	}
	if (now_ms < ac->next_ms)
		return 0;
	if (active)
		candidate = ac->config.mode == KS_AUTOCOMPACT_PERIODIC ? periodic_candidate(ac, now_ms)
								       : revision - ac->config.retention;
	if (candidate > 0 && candidate != ac->last_revision)
		ac->trying = candidate;
	else
		begin_wait(ac, now_ms, revision);
	return ac->trying;
}

void ks_autocompact_done(struct ks_autocompact *ac, int64_t now_ms, bool succeeded)
{
	if (!ac->trying)
		return;
	if (succeeded) {
		ac->last_success_ms = now_ms;
		ac->last_revision = ac->trying;
	}
	ac->trying = 0;
	ac->tried = true;
}

int64_t ks_autocompact_due_ms(const struct ks_autocompact *ac)
{
	if (ac->config.mode == KS_AUTOCOMPACT_OFF || ac->trying)
		return INT64_MAX;
	return ac->started && !ac->tried ? ac->next_ms : INT64_MIN;
}

void ks_autocompact_forget(struct ks_autocompact *ac)
{
	ac->first = ac->count = 0;
	ac->last_revision = ac->trying = 0;
	ac->started = ac->tried = false;
}
