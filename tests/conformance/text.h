/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Messages as text, by protobuf-c's descriptors: requests are parsed from it, responses are printed as one line for each field.
 *
 * The form of requests: "key:'a' limit:5 success{request_put{key:'b' value:'x'*1000}}". Strings take \xHH and a repeat count;
 * enums are names or numbers; r5 is a revision counted from the scenario's start (r1), L1 the first lease whose id the server
 * chose. Revisions and such leases are printed in the same way, ids of members and raft terms as "set", so that two servers with
 * different histories print the same text.
 */
#ifndef CONFORMANCE_TEXT_H
#define CONFORMANCE_TEXT_H

#include <protobuf-c/protobuf-c.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#define NAMES_LEASES_MAX 64

/* How numbers that differ between servers are written. */
struct names {
	int64_t base; /* the revision that is called r1 */
	int64_t leases[NAMES_LEASES_MAX];
	int lease_count;
};

/* A message of malloc-ed parts, for protobuf_c_message_free_unpacked. A mistake in the text ends the program. */
ProtobufCMessage *text_parse(const ProtobufCMessageDescriptor *type, const char *text, const struct names *names);
void text_print(FILE *out, const ProtobufCMessage *message, const char *path, const struct names *names);
/* 'size' bytes as a quoted string; long ones as size and checksum. */
void text_print_bytes(FILE *out, const uint8_t *data, size_t size);

#endif
