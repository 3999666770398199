/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A client's life, its endpoints, and which of them is in use.
 *
 * One channel for each endpoint, all made at the start and connected on first use. gRPC reconnects a channel with its own
 * back-off, kept short here, because how often to try is decided per call and stream.
 */
#include <grpc/grpc_security.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/panic.h"
#include "client/client_priv.h"

#define TIMEOUT_MS 10000
#define CONNECT_TIMEOUT_MS 3000
#define KEEPALIVE_MS 30000
#define PING_TIMEOUT_MS 10000
#define ENDPOINTS_MAX 64

static grpc_arg arg_int(const char *key, int64_t value)
{
	grpc_arg arg = {.type = GRPC_ARG_INTEGER};

	/* gRPC's struct has no const, and does not write through it. */
	memcpy(&arg.key, &key, sizeof(key));
	arg.value.integer = (int)(value > INT32_MAX ? INT32_MAX : value);
	return arg;
}

static bool is_tls(const char *name)
{
	return strncmp(name, "https://", 8) == 0;
}

/*
 * The name as a gRPC target. The forms are chosen so that they never equal the name of a connection's peer
 * ("ipv4:…", "unix:/…"): see etcdc_call_was_sent.
 */
static char *target_of(const char *name)
{
	const char *prefix = "dns:///";
	size_t size;
	char *target;

	if (strncmp(name, "http://", 7) == 0)
		name += 7;
	else if (is_tls(name))
		name += 8;
	if (strncmp(name, "unix:", 5) == 0)
		prefix = "";
	else if (strstr(name, "://") || !strchr(name, ':'))
		return NULL;
	size = strlen(prefix) + strlen(name) + 1;
	target = ks_xmalloc(size);
	(void)snprintf(target, size, "%s%s", prefix, name);
	return target;
}

static grpc_channel_credentials *tls_credentials(const struct etcdc_config *config)
{
	grpc_ssl_pem_key_cert_pair pair = {.private_key = config->tls_key, .cert_chain = config->tls_cert};

	return grpc_ssl_credentials_create(config->tls_roots, config->tls_cert ? &pair : NULL, NULL, NULL);
}

static grpc_channel *channel_new(const char *target, bool tls, const struct etcdc_config *config)
{
	int64_t connect_ms = config->connect_timeout_ms > 0 ? config->connect_timeout_ms : CONNECT_TIMEOUT_MS;
	int64_t keepalive_ms = config->keepalive_ms ? config->keepalive_ms : KEEPALIVE_MS;
	grpc_arg args[] = {
		arg_int(GRPC_ARG_MAX_RECEIVE_MESSAGE_LENGTH, -1),
		arg_int(GRPC_ARG_MAX_SEND_MESSAGE_LENGTH, -1),
		arg_int(GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, 100),
		arg_int(GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, 1000),
		arg_int(GRPC_ARG_MIN_RECONNECT_BACKOFF_MS, connect_ms), /* it also is the time-out of a connect */
		/* Two clients of one program must not share a connection. */
		arg_int(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1),
		/* Nothing optional, which costs a third of a call, but for deadlines and for retries of what a server never saw. */
		arg_int(GRPC_ARG_MINIMAL_STACK, 1),
		arg_int(GRPC_ARG_ENABLE_DEADLINE_CHECKS, 1),
		arg_int(GRPC_ARG_ENABLE_RETRIES, 1),
		arg_int(GRPC_ARG_ENABLE_HTTP_PROXY, 0),
		arg_int(GRPC_ARG_SERVICE_CONFIG_DISABLE_RESOLUTION, 1),
		arg_int(GRPC_ARG_KEEPALIVE_TIME_MS, keepalive_ms < 0 ? INT32_MAX : keepalive_ms),
		arg_int(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, PING_TIMEOUT_MS),
		arg_int(GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 0),
		/* Idle watches must be pinged for ever, not twice. */
		arg_int(GRPC_ARG_HTTP2_MAX_PINGS_WITHOUT_DATA, 0),
	};
	grpc_channel_args all = {.num_args = sizeof(args) / sizeof(args[0]), .args = args};
	grpc_channel_credentials *credentials = tls ? tls_credentials(config) : grpc_insecure_credentials_create();
	grpc_channel *channel = credentials ? grpc_channel_create(target, credentials, &all) : NULL;

	grpc_channel_credentials_release(credentials);
	return channel;
}

static void endpoints_free(struct etcdc *client)
{
	for (size_t i = 0; i < client->endpoint_count; i++) {
		struct etcdc_endpoint *endpoint = &client->endpoints[i];

		if (endpoint->channel)
			grpc_channel_destroy(endpoint->channel);
		if (endpoint->target)
			gpr_free(endpoint->target);
		free(endpoint->name);
	}
	free(client->endpoints);
}

static void credentials_free(struct etcdc *client)
{
	if (client->password)
		explicit_bzero(client->password, strlen(client->password));
	free(client->password);
	free(client->user);
}

static enum ks_status endpoints_init(struct etcdc *client, const struct etcdc_config *config, struct etcdc_err *err)
{
	if (config->endpoint_count == 0 || config->endpoint_count > ENDPOINTS_MAX)
		return etcdc_fail(err, KS_INVALID_ARGUMENT, false, "etcdc: between 1 and 64 endpoints are needed");
	client->endpoints = ks_xcalloc(config->endpoint_count, sizeof(client->endpoints[0]));
	for (size_t i = 0; i < config->endpoint_count; i++) {
		struct etcdc_endpoint *endpoint = &client->endpoints[i];
		char *target = target_of(config->endpoints[i]);

		client->endpoint_count = i + 1;
		endpoint->name = ks_xstrdup(config->endpoints[i]);
		if (!target)
			return etcdc_fail(err, KS_INVALID_ARGUMENT, false,
					  "etcdc: an endpoint is host:port, http://host:port, https://host:port or "
					  "unix:///path");
		endpoint->channel = channel_new(target, is_tls(config->endpoints[i]), config);
		if (!endpoint->channel) {
			free(target);
			return etcdc_fail(err, KS_INVALID_ARGUMENT, false,
					  "etcdc: the certificates or keys for TLS cannot be used");
		}
		endpoint->target = grpc_channel_get_target(endpoint->channel);
		free(target);
	}
	return KS_OK;
}

struct etcdc *etcdc_open(const struct etcdc_config *config, struct etcdc_err *err)
{
	struct etcdc *client = ks_xcalloc(1, sizeof(*client));
	struct ks_err loop_err;

	grpc_init();
	ks_mutex_init(&client->mutex);
	ks_cond_init(&client->idle);
	ks_cond_init(&client->fired);
	ks_list_init(&client->timers);
	ks_list_init(&client->calls);
	ks_list_init(&client->logins);
	if (config->user && config->user[0]) {
		client->user = ks_xstrdup(config->user);
		client->password = ks_xstrdup(config->password ? config->password : "");
	}
	client->timeout_ms = config->timeout_ms > 0 ? config->timeout_ms : TIMEOUT_MS;
	client->require_leader = config->require_leader;
	if (endpoints_init(client, config, err) != KS_OK)
		goto fail;
	if (etcdc_loop_start(client, &loop_err) != KS_OK) {
		(void)etcdc_fail(err, loop_err.status, false, loop_err.text);
		goto fail;
	}
	client->watches = etcdc_watch_hub_new(client);
	client->leases = etcdc_lease_hub_new(client);
	return client;
fail:
	credentials_free(client);
	endpoints_free(client);
	ks_cond_fini(&client->idle);
	ks_cond_fini(&client->fired);
	ks_mutex_fini(&client->mutex);
	free(client);
	grpc_shutdown();
	return NULL;
}

struct etcdc *etcdc_open_url(const char *endpoints, struct etcdc_err *err)
{
	char *copy = ks_xstrdup(endpoints), *rest = copy, *name;
	const char *names[ENDPOINTS_MAX + 1];
	size_t count = 0;
	struct etcdc *client;

	while (count <= ENDPOINTS_MAX && (name = strsep(&rest, ",")))
		names[count++] = name;
	client = etcdc_open(&(struct etcdc_config){.endpoints = names, .endpoint_count = count}, err);
	free(copy);
	return client;
}

void etcdc_close(struct etcdc *client)
{
	if (!client)
		return;
	KS_ASSERT(!etcdc_on_thread(client));
	etcdc_watch_hub_stop(client->watches);
	etcdc_lease_hub_stop(client->leases);

	ks_mutex_lock(&client->mutex);
	KS_ASSERT(client->open_streams == 0);
	client->closing = true;
	etcdc_calls_cancel(client);
	while (client->users > 0)
		(void)ks_cond_wait(&client->idle, &client->mutex, -1);
	ks_mutex_unlock(&client->mutex);

	etcdc_loop_stop(client);
	etcdc_watch_hub_free(client->watches);
	etcdc_lease_hub_free(client->leases);
	credentials_free(client);
	endpoints_free(client);
	if (client->has_token)
		grpc_slice_unref(client->token);
	ks_cond_fini(&client->idle);
	ks_cond_fini(&client->fired);
	ks_mutex_fini(&client->mutex);
	free(client);
	grpc_shutdown();
}

void etcdc_user_done(struct etcdc *client)
{
	ks_mutex_lock(&client->mutex);
	KS_ASSERT(client->users > 0);
	if (--client->users == 0)
		ks_cond_broadcast(&client->idle);
	ks_mutex_unlock(&client->mutex);
}

const char *etcdc_endpoint(struct etcdc *client)
{
	const char *name;

	ks_mutex_lock(&client->mutex);
	name = client->endpoints[client->current].name;
	ks_mutex_unlock(&client->mutex);
	return name;
}

void etcdc_endpoint_failed(struct etcdc *client, size_t endpoint)
{
	ks_mutex_lock(&client->mutex);
	/* Of many calls that fail together, one moves on. */
	if (client->current == endpoint)
		client->current = (endpoint + 1) % client->endpoint_count;
	ks_mutex_unlock(&client->mutex);
}

void etcdc_backoff_init(const struct etcdc *client, struct ks_backoff *backoff)
{
	uint64_t seed = (uint64_t)(uintptr_t)backoff ^ (uint64_t)ks_clock_now(ks_clock_system());

	(void)client;
	ks_backoff_init(backoff, ETCDC_BACKOFF_MIN_MS, ETCDC_BACKOFF_MAX_MS, seed);
}

int64_t etcdc_retry_delay(const struct etcdc *client, struct ks_backoff *backoff, unsigned attempts)
{
	if (attempts % client->endpoint_count != 0)
		return 0;
	return ks_backoff_failed(backoff);
}

void etcdc_set_token(struct etcdc *client, const char *token)
{
	grpc_slice slice = token ? grpc_slice_from_copied_string(token) : grpc_empty_slice();

	ks_mutex_lock(&client->mutex);
	if (client->has_token)
		grpc_slice_unref(client->token);
	client->has_token = token != NULL;
	client->token_number++;
	client->token = slice;
	ks_mutex_unlock(&client->mutex);
}

size_t etcdc_metadata(struct etcdc *client, bool stream, grpc_metadata metadata[ETCDC_METADATA_MAX])
{
	size_t count = 0;

	memset(metadata, 0, ETCDC_METADATA_MAX * sizeof(metadata[0]));
	if (client->has_token) {
		metadata[count].key = grpc_slice_from_static_string("token");
		metadata[count++].value = grpc_slice_ref(client->token);
	}
	if (stream && client->require_leader) {
		metadata[count].key = grpc_slice_from_static_string("hasleader");
		metadata[count++].value = grpc_slice_from_static_string("true");
	}
	return count;
}

void etcdc_metadata_done(grpc_metadata *metadata, size_t count)
{
	for (size_t i = 0; i < count; i++)
		grpc_slice_unref(metadata[i].value);
}

grpc_call *etcdc_call_new(struct etcdc *client, const char *path, gpr_timespec deadline, size_t *endpoint)
{
	grpc_slice copy = grpc_slice_from_copied_string(path);
	grpc_call *call;

	*endpoint = client->current;
	call = grpc_channel_create_call(client->endpoints[client->current].channel, NULL, GRPC_PROPAGATE_DEFAULTS,
					client->cq, copy, NULL, deadline, NULL);
	grpc_slice_unref(copy);
	return call;
}

/*
 * gRPC's C API does not tell. What it does: a call that found no connection fails with one of these texts, made on this side,
 * and has no peer yet (then grpc_call_get_peer says the channel's target). Everything else counts as sent; so when another
 * version of gRPC has other texts, writes fail instead of being done twice, and a unit test tells us.
 */
bool etcdc_call_was_sent(struct etcdc *client, size_t endpoint, grpc_call *call, grpc_status_code code,
			 grpc_slice details)
{
	static const char *const unconnected[] = {"failed to connect to all addresses", "DNS resolution failed",
						  "empty address list"};
	bool sent = true;
	char *peer;

	if (code != GRPC_STATUS_UNAVAILABLE)
		return true;
	for (size_t i = 0; i < sizeof(unconnected) / sizeof(unconnected[0]); i++) {
		size_t size = strlen(unconnected[i]);

		if (GRPC_SLICE_LENGTH(details) >= size &&
		    memcmp(GRPC_SLICE_START_PTR(details), unconnected[i], size) == 0)
			sent = false;
	}
	if (sent)
		return true;
	peer = grpc_call_get_peer(call);
	sent = strcmp(peer, client->endpoints[endpoint].target) != 0;
	gpr_free(peer);
	return sent;
}

gpr_timespec etcdc_deadline(int64_t timeout_ms)
{
	if (timeout_ms <= 0)
		return gpr_inf_future(GPR_CLOCK_MONOTONIC);
	return gpr_time_add(gpr_now(GPR_CLOCK_MONOTONIC), gpr_time_from_millis(timeout_ms, GPR_TIMESPAN));
}
