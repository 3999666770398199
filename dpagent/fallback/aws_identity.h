/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Keys for AWS, in the order in which its own tools look: AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (with AWS_SESSION_TOKEN); a web identity
 * (AWS_WEB_IDENTITY_TOKEN_FILE, AWS_ROLE_ARN) through STS; the container's (AWS_CONTAINER_CREDENTIALS_RELATIVE_URI or _FULL_URI); the
 * instance's role through IMDSv2 (never version 1; AWS_EC2_METADATA_DISABLED=true: not). What expires is renewed before.
 *
 * Threads: one at a time. Keys are wiped before their memory is given back.
 */
#ifndef DPA_AWS_IDENTITY_H
#define DPA_AWS_IDENTITY_H

#include "base/status.h"
#include "fallback/bucket.h"

struct dpa_aws_identity;

struct dpa_aws_keys {
	char *id, *secret;
	char *token; /* "" when there is none */
};

/* 'http' is borrowed and outlives the identity. Reads the environment, asks nobody yet. */
struct dpa_aws_identity *dpa_aws_identity_new(const char *region, struct dpa_web *http, dpa_getenv_fn *env,
					      struct ks_err *err);
void dpa_aws_identity_free(struct dpa_aws_identity *identity); /* NULL is fine */
/* Keys that are valid now; borrowed until the next call. */
enum ks_status dpa_aws_identity_keys(struct dpa_aws_identity *identity, const struct dpa_aws_keys **keys,
				     struct ks_err *err) KS_MUST_CHECK;
/* The server says that they are not valid: the next call asks for new ones. False: there are no others. */
bool dpa_aws_identity_forget(struct dpa_aws_identity *identity);

#endif
