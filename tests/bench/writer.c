/* SPDX-License-Identifier: Apache-2.0 */
/* See writer.h. */
#include "tests/bench/writer.h"

#include <stdio.h>
#include <string.h>

bool bench_writer_open(struct bench_writer *writer, const struct bench *bench)
{
	*writer = (struct bench_writer){.calls = h2_calls_new()};
	writer->connection = h2_calls_connect(writer->calls, bench->endpoints[0]);
	return writer->connection != NULL;
}

void bench_writer_close(struct bench_writer *writer)
{
	h2_calls_free(writer->calls);
}

static void answered(void *arg, const struct etcdc_result *result)
{
	struct bench_writer *writer = arg;

	writer->failed = result->err->status != KS_OK;
	if (writer->failed)
		(void)fprintf(stderr, "kineshim-bench: %s %s\n", ks_status_name(result->err->status),
			      result->err->text);
	else
		writer->succeeded = !writer->read || writer->read(result->bytes, &writer->revision);
}

bool bench_writer_call(struct bench_writer *writer, const struct etcdc_method *method, const void *request,
		       bool (*read)(struct ks_slice answer, int64_t *revision))
{
	writer->read = read;
	writer->failed = writer->succeeded = false;
	h2_call(writer->connection, method, request, answered, writer);
	h2_calls_serve(writer->calls);
	return !writer->failed;
}

bool bench_writer_put(struct bench_writer *writer, const char *key, struct ks_slice value)
{
	Etcdserverpb__PutRequest request = ETCDSERVERPB__PUT_REQUEST__INIT;

	request.key = (ProtobufCBinaryData){strlen(key), (uint8_t *)(uintptr_t)key};
	request.value = (ProtobufCBinaryData){value.size, (uint8_t *)(uintptr_t)value.data};
	return bench_writer_call(writer, &etcdc_method_put, &request, NULL);
}
