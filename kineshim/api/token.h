/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Tokens: what Authenticate gives, and what a request shows later (spec 7.6).
 *
 * simple (token_simple.c): looks like etcd's, letters, one dot, a decimal number, but carries all that is needed to believe it:
 * the user's credential and the time of issue under a MAC, whose secret is part of the auth state. So every instance knows every token,
 * also after a restart. docs/internals/auth.md explains it.
 *
 * jwt (token_jwt.c): signed by a key of the operator; etcd's own tokens and ours are the same.
 *
 * Threads: any, but for new and free. Errors: texts for a person from new, etcd's from issue.
 */
#ifndef KS_API_TOKEN_H
#define KS_API_TOKEN_H

#include "base/arena.h"
#include "base/buf.h"
#include "base/clock.h"
#include "store/auth.h"

struct ks_tokens;

struct ks_tokens_config {
	const char *spec;       /* --auth-token: "simple", or "jwt,sign-method=…,priv-key=…,pub-key=…,ttl=…" */
	int64_t ttl_s;          /* of simple tokens */
	struct ks_clock *clock; /* milliseconds since 1970; NULL: the system's */
};

struct ks_tokens *ks_tokens_new(const struct ks_tokens_config *config, struct ks_err *err);
void ks_tokens_free(struct ks_tokens *tokens); /* NULL is fine */

/* Appends a token for the user, who is one of 'auth'. */
enum ks_status ks_tokens_issue(struct ks_tokens *tokens, const struct ks_auth *auth, const struct ks_auth_user *user,
			       struct ks_buf *out, struct ks_err *err) KS_MUST_CHECK;

/*
 * Whose token it is: fills user (memory of the arena), auth_revision and frozen of the caller. False: nobody's, or not any more. A
 * valid use makes a simple token live on.
 */
bool ks_tokens_verify(struct ks_tokens *tokens, const struct ks_auth *auth, struct ks_slice token,
		      struct ks_arena *arena, struct ks_caller *caller) KS_MUST_CHECK;
/* Does it claim to be from a later state than this one, so that it is worth catching up before it is judged? */
bool ks_tokens_is_ahead(const struct ks_tokens *tokens, const struct ks_auth *auth, struct ks_slice token);

#endif
