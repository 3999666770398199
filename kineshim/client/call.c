/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Unary calls: attempts, fail-over, and the blocking form on top of the asynchronous one.
 *
 *	start ──► attempt on the endpoint in use ──► OK or a final error ──► finish
 *	             ▲                                   │ UNAVAILABLE, and (repeatable or never sent), and time left
 *	             └────────── timer (0, back-off) ◄───┘ next endpoint
 *
 * A call belongs to the client's thread from its first attempt until it is finished; 'link' and 'call' are also read by
 * etcdc_close, under the client's mutex.
 */
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/panic.h"
#include "client/client_priv.h"

struct call {
	struct etcdc_tag tag;
	struct etcdc_timer retry;
	struct ks_list link; /* client->calls */
	struct etcdc *client;
	char *path;
	const ProtobufCMessageDescriptor *response_type; /* NULL: bytes */
	bool repeatable, once;
	bool bare; /* without token: it fetches one */
	struct etcdc_login login;
	unsigned logins;
	grpc_slice request;
	gpr_timespec deadline;
	int64_t deadline_ms; /* the same on our clock; INT64_MAX: none */

	/* The attempt. */
	grpc_call *call; /* NULL between attempts; changed under client->mutex */
	size_t endpoint;
	unsigned attempts;
	struct ks_backoff backoff;
	grpc_metadata_array initial, trailing;
	grpc_byte_buffer *response;
	grpc_status_code code;
	grpc_slice details;

	/* The end: exactly one of 'done' and 'waiter'. */
	struct etcdc_err err;
	etcdc_done_fn *done;
	void *arg;
	struct waiter *waiter;
};

struct waiter {
	struct ks_mutex mutex;
	struct ks_cond cond;
	bool finished;
};

static void attempt(struct call *call);

static void call_free(struct call *call)
{
	if (call->response)
		grpc_byte_buffer_destroy(call->response);
	grpc_slice_unref(call->request);
	free(call->path);
	free(call);
}

static void deliver(struct call *call)
{
	struct etcdc_result result = {.err = &call->err};
	ProtobufCMessage *message = NULL;
	grpc_slice bytes = grpc_empty_slice();

	if (call->err.status == KS_OK && call->response_type) {
		message = etcdc_decode(call->response_type, call->response);
		if (!message)
			(void)etcdc_fail(&call->err, KS_INTERNAL, true, "etcdc: the response cannot be decoded");
		result.response = message;
	} else if (call->err.status == KS_OK) {
		bytes = etcdc_flatten(call->response);
		result.bytes = ks_slice_of(GRPC_SLICE_START_PTR(bytes), GRPC_SLICE_LENGTH(bytes));
	}
	call->done(call->arg, &result);
	etcdc_free(message);
	grpc_slice_unref(bytes);
}

static void finish(struct call *call)
{
	struct etcdc *client = call->client;

	ks_mutex_lock(&client->mutex);
	ks_list_remove(&call->link);
	ks_mutex_unlock(&client->mutex);
	if (call->waiter) {
		struct waiter *waiter = call->waiter;

		/* From here the waiting thread owns the call. */
		ks_mutex_lock(&waiter->mutex);
		waiter->finished = true;
		ks_cond_signal(&waiter->cond);
		ks_mutex_unlock(&waiter->mutex);
	} else {
		deliver(call);
		call_free(call);
	}
	etcdc_user_done(client);
}

static void logged_in(struct etcdc_login *login, const struct etcdc_err *err)
{
	struct call *call = ks_container_of(login, struct call, login);
	struct etcdc *client = call->client;
	bool again = false;

	ks_mutex_lock(&client->mutex);
	if (err->status == KS_OK && !client->closing) {
		etcdc_timer_arm_locked(client, &call->retry, 0);
		again = true;
	}
	ks_mutex_unlock(&client->mutex);
	if (err->status != KS_OK)
		call->err = *err;
	if (!again)
		finish(call);
}

/* True when the call waits for a token. What was refused for want of one has done nothing. */
static bool log_in(struct call *call)
{
	if (call->bare || !etcdc_login_helps(call->client, call->err.status, call->err.text, call->logins))
		return false;
	call->logins++;
	call->err.sent = false;
	call->login.done = logged_in;
	etcdc_login(call->client, &call->login);
	return true;
}

/* True when the call goes on with another attempt. */
static bool try_again(struct call *call)
{
	struct etcdc *client = call->client;
	int64_t now_ms = ks_clock_now(ks_clock_system()), delay_ms;
	bool again = false;

	if (call->err.status != KS_UNAVAILABLE)
		return log_in(call);
	etcdc_endpoint_failed(client, call->endpoint);
	if (call->once || (call->err.sent && !call->repeatable))
		return false;
	delay_ms = etcdc_retry_delay(client, &call->backoff, call->attempts);
	if (call->deadline_ms - now_ms <= delay_ms)
		return false;
	ks_mutex_lock(&client->mutex);
	if (!client->closing) {
		etcdc_timer_arm_locked(client, &call->retry, delay_ms);
		again = true;
	}
	ks_mutex_unlock(&client->mutex);
	return again;
}

static void attempt_ended(struct etcdc_tag *tag, bool ok)
{
	struct call *call = ks_container_of(tag, struct call, tag);
	grpc_call *ended = call->call;
	bool sent;

	(void)ok; /* a batch that receives the status always succeeds */
	sent = call->err.sent || etcdc_call_was_sent(call->client, call->endpoint, ended, call->code, call->details);
	etcdc_err_of(&call->err, call->code, call->details, sent);
	grpc_slice_unref(call->details);
	grpc_metadata_array_destroy(&call->initial);
	grpc_metadata_array_destroy(&call->trailing);
	ks_mutex_lock(&call->client->mutex);
	call->call = NULL;
	ks_mutex_unlock(&call->client->mutex);
	grpc_call_unref(ended);

	if (call->err.status == KS_OK && !call->response)
		(void)etcdc_fail(&call->err, KS_INTERNAL, true, "etcdc: the server sent no response");
	if (!try_again(call))
		finish(call);
}

static void retry_now(struct etcdc_timer *timer)
{
	attempt(ks_container_of(timer, struct call, retry));
}

static void attempt(struct call *call)
{
	struct etcdc *client = call->client;
	grpc_metadata metadata[ETCDC_METADATA_MAX];
	size_t metadata_count;
	grpc_byte_buffer *request = etcdc_buffer_of(call->request);
	grpc_op ops[6];
	grpc_call *created;

	if (call->response)
		grpc_byte_buffer_destroy(call->response);
	call->response = NULL;
	grpc_metadata_array_init(&call->initial);
	grpc_metadata_array_init(&call->trailing);
	call->attempts++;

	memset(ops, 0, sizeof(ops));
	ops[1].op = GRPC_OP_SEND_MESSAGE;
	ops[1].data.send_message.send_message = request;
	ops[2].op = GRPC_OP_SEND_CLOSE_FROM_CLIENT;
	ops[3].op = GRPC_OP_RECV_INITIAL_METADATA;
	ops[3].data.recv_initial_metadata.recv_initial_metadata = &call->initial;
	ops[4].op = GRPC_OP_RECV_MESSAGE;
	ops[4].data.recv_message.recv_message = &call->response;
	ops[5].op = GRPC_OP_RECV_STATUS_ON_CLIENT;
	ops[5].data.recv_status_on_client.trailing_metadata = &call->trailing;
	ops[5].data.recv_status_on_client.status = &call->code;
	ops[5].data.recv_status_on_client.status_details = &call->details;

	ks_mutex_lock(&client->mutex);
	metadata_count = call->bare ? 0 : etcdc_metadata(client, false, metadata);
	call->login.token = client->token_number;
	created = etcdc_call_new(client, call->path, call->deadline, &call->endpoint);
	call->call = created;
	/* etcdc_close may have been too early to find this attempt. */
	if (client->closing)
		(void)grpc_call_cancel(created, NULL);
	ks_mutex_unlock(&client->mutex);

	ops[0].op = GRPC_OP_SEND_INITIAL_METADATA;
	ops[0].data.send_initial_metadata.count = metadata_count;
	ops[0].data.send_initial_metadata.metadata = metadata;
	call->tag.done = attempt_ended;
	/* After this the call may already be finished by the client's thread. */
	etcdc_start_batch(created, ops, 6, &call->tag);
	grpc_byte_buffer_destroy(request);
	etcdc_metadata_done(metadata, metadata_count);
}

void etcdc_calls_cancel(struct etcdc *client)
{
	for (struct ks_list *link = client->calls.next; link != &client->calls; link = link->next) {
		struct call *call = ks_container_of(link, struct call, link);

		if (call->call)
			(void)grpc_call_cancel(call->call, NULL);
		else if (!ks_list_empty(&call->retry.link))
			etcdc_timer_arm_locked(client, &call->retry, 0);
	}
}

static struct call *call_new(struct etcdc *client, const char *path, const struct etcdc_call_options *options)
{
	struct call *call = ks_xcalloc(1, sizeof(*call));
	int64_t timeout_ms = options ? options->timeout_ms : 0;

	if (timeout_ms == 0)
		timeout_ms = client->timeout_ms;
	call->client = client;
	call->path = ks_xstrdup(path);
	call->once = options && options->once;
	call->deadline = etcdc_deadline(timeout_ms);
	call->deadline_ms = timeout_ms < 0 ? INT64_MAX : ks_clock_now(ks_clock_system()) + timeout_ms;
	etcdc_timer_init(&call->retry, retry_now);
	ks_list_init(&call->link);
	ks_list_init(&call->login.link);
	etcdc_backoff_init(client, &call->backoff);
	return call;
}

static void call_start(struct call *call)
{
	ks_mutex_lock(&call->client->mutex);
	ks_list_append(&call->client->calls, &call->link);
	call->client->users++;
	ks_mutex_unlock(&call->client->mutex);
	attempt(call);
}

void etcdc_async(struct etcdc *client, const struct etcdc_method *method, const void *request,
		 const struct etcdc_call_options *options, etcdc_done_fn *done, void *arg)
{
	struct call *call = call_new(client, method->path, options);

	call->repeatable = method->repeatable;
	call->response_type = options && options->raw ? NULL : method->response;
	call->request = etcdc_encode(request);
	call->done = done;
	call->arg = arg;
	call_start(call);
}

void etcdc_async_bare(struct etcdc *client, const struct etcdc_method *method, const void *request, etcdc_done_fn *done,
		      void *arg)
{
	struct call *call = call_new(client, method->path, NULL);

	call->bare = call->repeatable = true;
	call->response_type = method->response;
	call->request = etcdc_encode(request);
	call->done = done;
	call->arg = arg;
	call_start(call);
}

/* Runs the call to its end; its response, if it got one, is still in it. */
static enum ks_status call_and_wait(struct call *call)
{
	struct waiter waiter = {.finished = false};

	KS_ASSERT(!etcdc_on_thread(call->client));
	ks_mutex_init(&waiter.mutex);
	ks_cond_init(&waiter.cond);
	call->waiter = &waiter;
	call_start(call);
	ks_mutex_lock(&waiter.mutex);
	while (!waiter.finished)
		(void)ks_cond_wait(&waiter.cond, &waiter.mutex, -1);
	ks_mutex_unlock(&waiter.mutex);
	ks_cond_fini(&waiter.cond);
	ks_mutex_fini(&waiter.mutex);
	return call->err.status;
}

enum ks_status etcdc_unary(struct etcdc *client, const struct etcdc_method *method, const void *request,
			   const struct etcdc_call_options *options, void **response, struct etcdc_err *err)
{
	struct call *call = call_new(client, method->path, options);
	enum ks_status status;

	*response = NULL;
	call->repeatable = method->repeatable;
	call->request = etcdc_encode(request);
	status = call_and_wait(call);
	if (status == KS_OK) {
		*response = etcdc_decode(method->response, call->response);
		if (!*response)
			status = etcdc_fail(&call->err, KS_INTERNAL, true, "etcdc: the response cannot be decoded");
	}
	if (err)
		*err = call->err;
	call_free(call);
	return status;
}

enum ks_status etcdc_unary_raw(struct etcdc *client, const char *path, struct ks_slice request,
			       const struct etcdc_call_options *options, uint8_t **response, size_t *size,
			       struct etcdc_err *err)
{
	struct call *call = call_new(client, path, options);
	enum ks_status status;

	*response = NULL;
	*size = 0;
	call->request = grpc_slice_from_copied_buffer((const char *)request.data, request.size);
	status = call_and_wait(call);
	if (status == KS_OK) {
		grpc_slice bytes = etcdc_flatten(call->response);

		*size = GRPC_SLICE_LENGTH(bytes);
		*response = ks_xmalloc(*size + 1);
		memcpy(*response, GRPC_SLICE_START_PTR(bytes), *size);
		grpc_slice_unref(bytes);
	}
	if (err)
		*err = call->err;
	call_free(call);
	return status;
}
