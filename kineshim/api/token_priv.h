/* SPDX-License-Identifier: Apache-2.0 */
/* A kind of tokens: the table that token.c goes through. Contracts as in token.h. */
#ifndef KS_API_TOKEN_PRIV_H
#define KS_API_TOKEN_PRIV_H

#include "api/token.h"

struct ks_tokens {
	const struct ks_tokens_ops *ops;
	struct ks_clock *clock;
};

struct ks_tokens_ops {
	void (*free)(struct ks_tokens *tokens);
	enum ks_status (*issue)(struct ks_tokens *tokens, const struct ks_auth *auth, const struct ks_auth_user *user,
				struct ks_buf *out, struct ks_err *err);
	bool (*verify)(struct ks_tokens *tokens, const struct ks_auth *auth, struct ks_slice token,
		       struct ks_arena *arena, struct ks_caller *caller);
	bool (*is_ahead)(const struct ks_tokens *tokens, const struct ks_auth *auth, struct ks_slice token);
};

/* Without clock, which token.c fills in. */
struct ks_tokens *ks_tokens_simple(const struct ks_tokens_config *config, struct ks_err *err);
struct ks_tokens *ks_tokens_jwt(const char *options, struct ks_err *err);

/* A copy in the arena; false without memory. */
bool ks_token_set_user(struct ks_arena *arena, struct ks_slice name, struct ks_caller *caller);

#endif
