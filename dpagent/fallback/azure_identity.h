/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Tokens for Azure's storage without a key: the workload's (AZURE_FEDERATED_TOKEN_FILE, AZURE_TENANT_ID, AZURE_CLIENT_ID, AZURE_AUTHORITY_HOST), else
 * the managed identity of the machine (AZURE_CLIENT_ID chooses among several). Renewed before they expire.
 *
 * Threads: one at a time. Tokens are wiped before their memory is given back.
 */
#ifndef DPA_AZURE_IDENTITY_H
#define DPA_AZURE_IDENTITY_H

#include "base/status.h"
#include "fallback/bucket.h"

struct dpa_azure_identity;

/* 'http' is borrowed and outlives the identity. Reads the environment, asks nobody yet. */
struct dpa_azure_identity *dpa_azure_identity_new(struct dpa_web *http, dpa_getenv_fn *env, struct ks_err *err);
void dpa_azure_identity_free(struct dpa_azure_identity *identity); /* NULL is fine */
/* "Authorization: Bearer …", malloc-ed for the caller, who wipes it. */
enum ks_status dpa_azure_identity_header(struct dpa_azure_identity *identity, char **header,
					 struct ks_err *err) KS_MUST_CHECK;

#endif
