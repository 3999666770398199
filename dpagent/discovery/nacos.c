/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Nacos, its interface of version 1: each service is asked for every interval. With a user the server's token is fetched first, once for
 * all services that wait for it, and again before it ends or when it is refused.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/panic.h"
#include "discovery/answers.h"
#include "discovery/discovery_priv.h"

/* Of a token whose life is not said. */
#define TOKEN_SECONDS 600

struct login {
	struct dpa_discovery *discovery;
	size_t server;
	struct dpa_transfer *transfer; /* while it is asked for */
	char *token;                   /* NULL: none */
	int64_t renew_ms;
	uint64_t serial; /* grows with each token */
};

struct dpa_nacos {
	struct login logins[DPA_SERVERS_MAX];
};

struct dpa_nacos *dpa_nacos_new(void)
{
	return ks_xcalloc(1, sizeof(struct dpa_nacos));
}

static void drop_token(struct login *login)
{
	if (login->token)
		explicit_bzero(login->token, strlen(login->token));
	free(login->token);
	login->token = NULL;
}

void dpa_nacos_free(struct dpa_discovery *discovery)
{
	if (!discovery->nacos)
		return;
	for (size_t i = 0; i < DPA_SERVERS_MAX; i++) {
		dpa_fetch_cancel(discovery->http, discovery->nacos->logins[i].transfer);
		drop_token(&discovery->nacos->logins[i]);
	}
	free(discovery->nacos);
}

static void fail(struct dpa_service *service, const char *what)
{
	const struct dpa_http_config *http = &service->discovery->config.nacos.http;
	const char *where = http->servers[service->poll.server].label;

	service->poll.busy = false;
	service->poll.transfer = NULL;
	service->waits_for_login = false;
	service->logged_in_again = false;
	if (dpa_poll_failed(&service->poll, http->server_count))
		dpa_service_failed(service, where, what);
}

/* ---- Login ---- */

static void list(struct dpa_service *service);

static void login_done(void *ctx, const struct dpa_http_answer *answer)
{
	struct login *login = ctx;
	char room[64], what[KS_ERR_TEXT_MAX + 32];
	const char *fault = dpa_http_fault(answer, room, sizeof(room));
	struct ks_err err;
	int64_t ttl_s = 0;
	size_t count;
	struct dpa_service **services = dpa_services_wanted(login->discovery, DPA_NACOS, &count);

	login->transfer = NULL;
	login->serial++;
	if (!fault && dpa_nacos_token(answer->body, &login->token, &ttl_s, &err) != KS_OK)
		fault = err.text;
	/* Renewed when nine tenths of its time are over. */
	login->renew_ms = dpa_discovery_now() + (ttl_s > 0 && ttl_s < 1000000 ? ttl_s : TOKEN_SECONDS) * 900;
	(void)snprintf(what, sizeof(what), "the login failed: %s", fault ? fault : "");
	for (size_t i = 0; i < count; i++) {
		if (!services[i]->waits_for_login || services[i]->poll.server != login->server)
			continue;
		if (fault)
			fail(services[i], what);
		else
			list(services[i]);
	}
	free(services);
}

static void start_login(struct dpa_discovery *discovery, struct login *login, const char *user, const char *password)
{
	const struct dpa_http_config *http = &discovery->config.nacos.http;
	char *name = dpa_http_escape(user), *secret = dpa_http_escape(password), *form = NULL, *path = NULL;

	KS_ASSERT(asprintf(&form, "username=%s&password=%s", name, secret) > 0);
	KS_ASSERT(asprintf(&path, "%sauth/login", http->prefix) > 0);
	login->transfer = dpa_fetch_start(discovery->http,
					  &(struct dpa_http_request){
						  .config = http,
						  .server = &http->servers[login->server],
						  .path = path,
						  .form = form,
					  },
					  login_done, login);
	explicit_bzero(form, strlen(form));
	explicit_bzero(secret, strlen(secret));
	free(form);
	free(path);
	free(secret);
	free(name);
	if (!login->transfer)
		login_done(login, &(struct dpa_http_answer){.error = "out of memory"});
}

/* ---- Listing ---- */

/* The token may have ended early: one more login, which serves all that were refused with the same token. */
static bool refused(struct dpa_service *service, struct login *login)
{
	if (service->login == login->serial)
		drop_token(login);
	if (service->logged_in_again || service->login == 0)
		return false;
	service->logged_in_again = true;
	dpa_nacos_ask(service);
	return true;
}

static void list_done(void *ctx, const struct dpa_http_answer *answer)
{
	struct dpa_service *service = ctx;
	struct dpa_discovery *discovery = service->discovery;
	const struct dpa_http_config *http = &discovery->config.nacos.http;
	struct login *login = &discovery->nacos->logins[service->poll.server];
	struct dpa_nodes nodes = {0};
	struct ks_err err;
	char room[64];
	const char *fault = dpa_http_fault(answer, room, sizeof(room));

	service->poll.transfer = NULL;
	if (answer->ok && (answer->status == 401 || answer->status == 403) && refused(service, login))
		return;
	if (!fault && dpa_nacos_answer(answer->body, http->weight, &nodes, &err) != KS_OK)
		fault = err.text;
	if (fault) {
		fail(service, fault);
		return;
	}
	service->logged_in_again = false;
	service->poll.busy = false;
	dpa_poll_succeeded(&service->poll, http->interval_ms);
	dpa_service_answered(service, &nodes);
}

static void add_parameter(struct ks_buf *path, const char *name, const char *value)
{
	char *escaped = dpa_http_escape(value);

	if (*value)
		ks_buf_printf(path, "&%s=%s", name, escaped);
	explicit_bzero(escaped, strlen(escaped));
	free(escaped);
}

static void list(struct dpa_service *service)
{
	struct dpa_discovery *discovery = service->discovery;
	const struct dpa_http_config *http = &discovery->config.nacos.http;
	const struct login *login = &discovery->nacos->logins[service->poll.server];
	struct ks_buf path;

	service->waits_for_login = false;
	service->login = login->token ? login->serial : 0;
	ks_buf_init(&path, 65536);
	ks_buf_printf(&path, "%sns/instance/list?healthyOnly=true", http->prefix);
	add_parameter(&path, "serviceName", service->name);
	add_parameter(&path, "namespaceId", service->namespace_id);
	add_parameter(&path, "groupName", service->group_name);
	if (login->token)
		add_parameter(&path, "accessToken", login->token);
	ks_buf_append(&path, "", 1);
	service->poll.transfer = path.failed ? NULL
					     : dpa_fetch_start(discovery->http,
							       &(struct dpa_http_request){
								       .config = http,
								       .server = &http->servers[service->poll.server],
								       .path = (const char *)path.data,
							       },
							       list_done, service);
	if (path.data)
		explicit_bzero(path.data, path.size);
	ks_buf_fini(&path);
	if (!service->poll.transfer)
		fail(service, "out of memory");
}

void dpa_nacos_ask(struct dpa_service *service)
{
	struct dpa_discovery *discovery = service->discovery;
	const struct dpa_nacos_config *config = &discovery->config.nacos;
	const struct dpa_server *server = &config->http.servers[service->poll.server];
	struct login *login = &discovery->nacos->logins[service->poll.server];
	const char *user = server->user ? server->user : config->user;
	const char *password = server->user ? server->password : config->password;

	service->poll.busy = true;
	if (login->token && dpa_discovery_now() >= login->renew_ms)
		drop_token(login);
	if (!user || login->token) {
		list(service);
		return;
	}
	service->waits_for_login = true;
	login->discovery = discovery;
	login->server = service->poll.server;
	if (!login->transfer)
		start_login(discovery, login, user, password ? password : "");
}

void dpa_nacos_stop(struct dpa_service *service)
{
	dpa_fetch_cancel(service->discovery->http, service->poll.transfer);
	service->poll.transfer = NULL;
	service->poll.busy = false;
	service->waits_for_login = false;
}
