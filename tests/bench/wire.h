/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Messages walked on the wire, without decoding: with thousands of watchers this program would otherwise be the bottleneck.
 */
#ifndef BENCH_WIRE_H
#define BENCH_WIRE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct wire {
	const uint8_t *at, *end;
};

static inline bool wire_varint(struct wire *wire, uint64_t *value)
{
	*value = 0;
	for (int shift = 0; shift < 64 && wire->at < wire->end; shift += 7) {
		uint8_t byte = *wire->at++;

		*value |= (uint64_t)(byte & 0x7f) << shift;
		if (!(byte & 0x80))
			return true;
	}
	return false;
}

/* The next field; length-delimited ones are in 'inner', others in 'value'. False at the end. */
static inline bool wire_field(struct wire *wire, uint64_t *number, struct wire *inner, uint64_t *value)
{
	uint64_t tag, size;

	*inner = (struct wire){NULL, NULL};
	if (!wire_varint(wire, &tag))
		return false;
	*number = tag >> 3;
	if ((tag & 7) == 0)
		return wire_varint(wire, value);
	if ((tag & 7) != 2 || !wire_varint(wire, &size) || size > (uint64_t)(wire->end - wire->at))
		return false;
	*inner = (struct wire){wire->at, wire->at + size};
	wire->at += size;
	return true;
}

#endif
