/* SPDX-License-Identifier: Apache-2.0 */
/* DNS messages. The resolver's library of libc takes them apart: it gives the TTL of every record, which that of c-ares does not for SRV. */
#include "discovery/answers.h"

#include <arpa/inet.h>
#include <arpa/nameser.h>
#include <stdlib.h>

#include "base/panic.h"

static bool address_of(const ns_rr *rr, enum dpa_dns_type type, struct dpa_dns_record *record)
{
	size_t size = type == DPA_DNS_TYPE_A ? sizeof(struct in_addr) : sizeof(struct in6_addr);

	return ns_rr_rdlen(*rr) == size && inet_ntop(type == DPA_DNS_TYPE_A ? AF_INET : AF_INET6, ns_rr_rdata(*rr),
						     record->host, sizeof(record->host));
}

/* priority, weight, port, target */
static bool srv_of(const ns_msg *message, const ns_rr *rr, struct dpa_dns_record *record)
{
	const uint8_t *data = ns_rr_rdata(*rr);

	if (ns_rr_rdlen(*rr) < 7)
		return false;
	record->priority = (uint16_t)ns_get16(data);
	record->weight = (uint16_t)ns_get16(data + 2);
	record->port = (uint16_t)ns_get16(data + 4);
	if (ns_name_uncompress(ns_msg_base(*message), ns_msg_end(*message), data + 6, record->host,
			       sizeof(record->host)) < 0)
		return false;
	if (strcmp(record->host, ".") == 0)
		record->host[0] = '\0';
	return record->host[0] == '\0' || dpa_host_valid(record->host);
}

enum ks_status dpa_dns_answer(struct ks_slice message, enum dpa_dns_type type, struct dpa_dns_records *records,
			      struct ks_err *err)
{
	ns_msg parsed;
	ns_rr rr;
	int count;

	*records = (struct dpa_dns_records){0};
	if (message.size > NS_MAXMSG || ns_initparse(message.data, (int)message.size, &parsed) != 0)
		return ks_fail(err, KS_DATA_LOSS, "the answer is no DNS message");
	count = ns_msg_count(parsed, ns_s_an);
	if (count > DPA_DNS_RECORDS_MAX)
		return ks_fail(err, KS_RESOURCE_EXHAUSTED, "the answer has more than %d records", DPA_DNS_RECORDS_MAX);
	records->list = ks_xcalloc(count ? (size_t)count : 1, sizeof(*records->list));
	for (int i = 0; i < count; i++) {
		struct dpa_dns_record *record = &records->list[records->count];

		if (ns_parserr(&parsed, ns_s_an, i, &rr) != 0) {
			free(records->list);
			*records = (struct dpa_dns_records){0};
			return ks_fail(err, KS_DATA_LOSS, "the answer is a damaged DNS message");
		}
		/* RFC 2181: a TTL with its highest bit set counts as zero. */
		if (i == 0 || ns_rr_ttl(rr) < (uint32_t)records->ttl_s)
			records->ttl_s = ns_rr_ttl(rr) > INT32_MAX ? 0 : ns_rr_ttl(rr);
		if (ns_rr_type(rr) != (ns_type)type || ns_rr_class(rr) != ns_c_in)
			continue;
		if (type == DPA_DNS_TYPE_SRV ? srv_of(&parsed, &rr, record) : address_of(&rr, type, record))
			records->count++;
		else
			*record = (struct dpa_dns_record){0};
	}
	return KS_OK;
}
