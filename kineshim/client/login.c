/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Name and password: a token is fetched when a server first asks for one, and again when it does not take the present one any more.
 * Of many calls that fail together one Authenticate serves all: they wait here and go on when it is done. A call that was
 * refused for want of a token had no effect, so it may be sent again whatever it does.
 */
#include <stdlib.h>
#include <string.h>

#include "base/panic.h"
#include "client/client_priv.h"

/* Attempts of one call that may end like this: the token may be gone again before it is used. */
#define LOGINS_MOST 3

bool etcdc_login_helps(const struct etcdc *client, enum ks_status status, const char *text, unsigned logins)
{
	static const char *const texts[] = {
		"etcdserver: invalid auth token",
		"etcdserver: user name is empty",
		"etcdserver: revision of auth store is old",
	};

	if (!client->user || logins >= LOGINS_MOST)
		return false;
	if (status != KS_UNAUTHENTICATED && status != KS_INVALID_ARGUMENT)
		return false;
	/* As a watch is refused, the status stands in front of the text. */
	for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]); i++)
		if (strstr(text, texts[i]))
			return true;
	return false;
}

static void done(void *arg, const struct etcdc_result *result)
{
	struct etcdc *client = arg;
	const Etcdserverpb__AuthenticateResponse *response = result->response;
	struct etcdc_err err = *result->err;
	struct ks_list waiting, *link;

	/* Auth may be off by now: then no token is the right one. */
	if (response)
		etcdc_set_token(client, response->token);
	else if (err.status == KS_FAILED_PRECONDITION)
		etcdc_set_token(client, NULL);
	ks_list_init(&waiting);
	ks_mutex_lock(&client->mutex);
	client->logging_in = false;
	ks_list_splice(&waiting, &client->logins);
	ks_mutex_unlock(&client->mutex);
	if (err.status == KS_FAILED_PRECONDITION)
		err.status = KS_OK;
	while ((link = ks_list_pop(&waiting))) {
		struct etcdc_login *login = ks_container_of(link, struct etcdc_login, link);

		login->done(login, &err);
	}
}

void etcdc_login(struct etcdc *client, struct etcdc_login *login)
{
	Etcdserverpb__AuthenticateRequest request = ETCDSERVERPB__AUTHENTICATE_REQUEST__INIT;
	bool first, newer;

	ks_mutex_lock(&client->mutex);
	newer = login && login->token != client->token_number;
	first = !newer && !client->logging_in;
	if (first)
		client->logging_in = true;
	if (login && !newer)
		ks_list_append(&client->logins, &login->link);
	ks_mutex_unlock(&client->mutex);
	if (newer) {
		login->done(login, &(struct etcdc_err){.status = KS_OK});
	} else if (first) {
		request.name = client->user;
		request.password = client->password;
		etcdc_async_bare(client, &etcdc_method_authenticate, &request, done, client);
	}
}

bool etcdc_logging_in(struct etcdc *client)
{
	bool is;

	ks_mutex_lock(&client->mutex);
	is = client->logging_in;
	ks_mutex_unlock(&client->mutex);
	return is;
}
