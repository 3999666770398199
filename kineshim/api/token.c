/* SPDX-License-Identifier: Apache-2.0 */
/* Which kind of tokens there is, and what they share. See token.h. */
#include "api/token.h"

#include <time.h>

#include "api/token_priv.h"

static int64_t wall_now_ms(struct ks_clock *clock)
{
	struct timespec now;

	(void)clock;
	clock_gettime(CLOCK_REALTIME, &now);
	return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

static struct ks_clock wall_clock = {.now_ms = wall_now_ms};

struct ks_tokens *ks_tokens_new(const struct ks_tokens_config *config, struct ks_err *err)
{
	const char *spec = config->spec ? config->spec : "";
	struct ks_tokens *tokens = NULL;

	if (spec[0] == 0 || strcmp(spec, "simple") == 0)
		tokens = ks_tokens_simple(config, err);
	else if (strncmp(spec, "jwt,", 4) == 0)
		tokens = ks_tokens_jwt(spec + 4, err);
	else
		ks_fail(err, KS_INVALID_ARGUMENT, "--auth-token: neither simple nor jwt,sign-method=…");
	if (tokens)
		tokens->clock = config->clock ? config->clock : &wall_clock;
	return tokens;
}

void ks_tokens_free(struct ks_tokens *tokens)
{
	if (tokens)
		tokens->ops->free(tokens);
}

enum ks_status ks_tokens_issue(struct ks_tokens *tokens, const struct ks_auth *auth, const struct ks_auth_user *user,
			       struct ks_buf *out, struct ks_err *err)
{
	return tokens->ops->issue(tokens, auth, user, out, err);
}

bool ks_tokens_verify(struct ks_tokens *tokens, const struct ks_auth *auth, struct ks_slice token,
		      struct ks_arena *arena, struct ks_caller *caller)
{
	return tokens->ops->verify(tokens, auth, token, arena, caller);
}

bool ks_tokens_is_ahead(const struct ks_tokens *tokens, const struct ks_auth *auth, struct ks_slice token)
{
	return tokens->ops->is_ahead(tokens, auth, token);
}

bool ks_token_set_user(struct ks_arena *arena, struct ks_slice name, struct ks_caller *caller)
{
	uint8_t *copy = ks_arena_alloc(arena, name.size + 1);

	if (!copy)
		return false;
	if (name.size)
		memcpy(copy, name.data, name.size);
	caller->user = ks_slice_of(copy, name.size);
	return true;
}
