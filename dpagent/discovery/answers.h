/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What registries answer, as nodes. Answers are hostile: sizes are bounded before they get here (DPA_ANSWER_MAX), nodes that make no sense are
 * left out, and an answer that is not of the expected form, or of whose nodes none makes sense, is an error: then the last known nodes count.
 *
 * Threads: any; no state. Errors: enum ks_status with a text; 'nodes' (to be zeroed) then holds nothing.
 */
#ifndef DPA_ANSWERS_H
#define DPA_ANSWERS_H

#include <jansson.h>

#include "base/bytes.h"
#include "base/status.h"
#include "discovery/nodes.h"

#define DPA_ANSWER_MAX ((size_t)32 << 20)

/* /v1/health/service/NAME. 'weight' is a factor. */
enum ks_status dpa_consul_answer(struct ks_slice body, int64_t weight, struct dpa_nodes *nodes,
				 struct ks_err *err) KS_MUST_CHECK;

/* /ns/instance/list. 'weight' is for instances without one. */
enum ks_status dpa_nacos_answer(struct ks_slice body, int64_t weight, struct dpa_nodes *nodes,
				struct ks_err *err) KS_MUST_CHECK;
/* /auth/login: the token, malloc-ed. */
enum ks_status dpa_nacos_token(struct ks_slice body, char **token, int64_t *ttl_s, struct ks_err *err) KS_MUST_CHECK;

/* /apps, with all applications; read once, asked for each service. The caller decrefs. */
enum ks_status dpa_eureka_apps(struct ks_slice body, json_t **apps, struct ks_err *err) KS_MUST_CHECK;
/* An application that is not there has no nodes. Names are the same whatever their case. */
enum ks_status dpa_eureka_answer(const json_t *apps, const char *name, int64_t weight, struct dpa_nodes *nodes,
				 struct ks_err *err) KS_MUST_CHECK;

/* The records of one type in a DNS message. */
enum dpa_dns_type { DPA_DNS_TYPE_A = 1, DPA_DNS_TYPE_AAAA = 28, DPA_DNS_TYPE_SRV = 33 };
struct dpa_dns_record {
	char host[256]; /* the address, or SRV's target without its last dot; "" for the root */
	uint16_t port, weight, priority;
};
#define DPA_DNS_RECORDS_MAX 1000
struct dpa_dns_records {
	struct dpa_dns_record *list; /* free() */
	size_t count;
	int64_t ttl_s; /* the least of the answer section; 0 without any */
};
enum ks_status dpa_dns_answer(struct ks_slice message, enum dpa_dns_type type, struct dpa_dns_records *records,
			      struct ks_err *err) KS_MUST_CHECK;

#endif
