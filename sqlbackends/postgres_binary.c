/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Parameters and results, in binary.
 */
#include <endian.h>
#include <string.h>

#include "base/panic.h"
#include "postgres_priv.h"

/* ---- parameters ---- */

static void param_number(struct sqlb_pg_params *params, uint64_t left_aligned, int size)
{
	KS_ASSERT(params->count < SQLB_PG_PARAMS_MAX);
	params->numbers[params->count] = left_aligned;
	params->values[params->count] = (const char *)&params->numbers[params->count];
	params->sizes[params->count++] = size;
}

void sqlb_pg_param_int8(struct sqlb_pg_params *params, int64_t value)
{
	param_number(params, htobe64((uint64_t)value), 8);
}

void sqlb_pg_param_int4(struct sqlb_pg_params *params, int32_t value)
{
	param_number(params, htobe64((uint64_t)(uint32_t)value << 32), 4);
}

void sqlb_pg_param_int2(struct sqlb_pg_params *params, int16_t value)
{
	param_number(params, htobe64((uint64_t)(uint16_t)value << 48), 2);
}

void sqlb_pg_param_slice(struct sqlb_pg_params *params, struct ks_slice value)
{
	KS_ASSERT(params->count < SQLB_PG_PARAMS_MAX && value.size <= INT32_MAX);
	params->values[params->count] = (const char *)value.data;
	params->sizes[params->count++] = (int)value.size;
}

void sqlb_pg_param_array(struct sqlb_pg_params *params, const struct sqlb_conn *conn, size_t start, size_t size)
{
	sqlb_pg_param_slice(params, ks_slice_of(conn->arrays.data + start, size));
}

/* ---- arrays ---- */

void sqlb_pg_put32(struct ks_buf *buf, uint32_t value)
{
	uint32_t big = htobe32(value);

	ks_buf_append(buf, &big, sizeof(big));
}

void sqlb_pg_put64(struct ks_buf *buf, uint64_t value)
{
	uint64_t big = htobe64(value);

	ks_buf_append(buf, &big, sizeof(big));
}

/* Dimensions, whether there are NULLs, type; then for each dimension its size and lower bound. */
void sqlb_pg_array_header(struct ks_buf *buf, Oid element, size_t count, bool with_nulls)
{
	sqlb_pg_put32(buf, count ? 1 : 0);
	sqlb_pg_put32(buf, with_nulls);
	sqlb_pg_put32(buf, element);
	if (count) {
		sqlb_pg_put32(buf, (uint32_t)count);
		sqlb_pg_put32(buf, 1);
	}
}

void sqlb_pg_int8_array(struct ks_buf *buf, const int64_t *a, size_t a_count, const int64_t *b, size_t b_count)
{
	sqlb_pg_array_header(buf, SQLB_PG_INT8, a_count + b_count, false);
	for (size_t i = 0; i < a_count + b_count; i++) {
		sqlb_pg_put32(buf, 8);
		sqlb_pg_put64(buf, (uint64_t)(i < a_count ? a[i] : b[i - a_count]));
	}
}

void sqlb_pg_leases_arrays(struct ks_buf *buf, const struct sqlb_lease *leases, size_t count, size_t *middle)
{
	ks_buf_reset(buf);
	sqlb_pg_array_header(buf, SQLB_PG_INT8, count, false);
	for (size_t i = 0; i < count; i++) {
		sqlb_pg_put32(buf, 8);
		sqlb_pg_put64(buf, (uint64_t)leases[i].id);
	}
	*middle = buf->size;
	sqlb_pg_array_header(buf, SQLB_PG_INT8, count, false);
	for (size_t i = 0; i < count; i++) {
		sqlb_pg_put32(buf, 8);
		sqlb_pg_put64(buf, (uint64_t)leases[i].ttl_ms);
	}
}

/* ---- results ---- */

/* A big-endian number of so many bytes, at most 8. */
static bool get_number(const PGresult *result, int row, int column, size_t size, uint64_t *value)
{
	bool fits = PQgetlength(result, row, column) == (int)size;
	uint64_t big = 0;

	if (fits)
		memcpy((uint8_t *)&big + sizeof(big) - size, PQgetvalue(result, row, column), size);
	*value = be64toh(big);
	return fits;
}

bool sqlb_pg_get_int8(const PGresult *result, int row, int column, int64_t *value)
{
	uint64_t number;
	bool fits = get_number(result, row, column, 8, &number);

	*value = (int64_t)number;
	return fits;
}

bool sqlb_pg_get_int4(const PGresult *result, int row, int column, int32_t *value)
{
	uint64_t number;
	bool fits = get_number(result, row, column, 4, &number);

	*value = (int32_t)(uint32_t)number;
	return fits;
}

bool sqlb_pg_get_int2(const PGresult *result, int row, int column, int16_t *value)
{
	uint64_t number;
	bool fits = get_number(result, row, column, 2, &number);

	*value = (int16_t)(uint16_t)number;
	return fits;
}

bool sqlb_pg_get_bool(const PGresult *result, int row, int column, bool *value)
{
	uint64_t number;
	bool fits = get_number(result, row, column, 1, &number);

	*value = number != 0;
	return fits;
}

struct ks_slice sqlb_pg_get_slice(const PGresult *result, int row, int column)
{
	if (PQgetisnull(result, row, column))
		return ks_slice_of(NULL, 0);
	return ks_slice_of(PQgetvalue(result, row, column), (size_t)PQgetlength(result, row, column));
}
