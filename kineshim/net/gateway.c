/* SPDX-License-Identifier: Apache-2.0 */
/* RPCs through JSON, see gateway.h. */
#include "net/gateway.h"

#include "net/http_priv.h"

void ks_gateway_route(struct ks_http_request *request)
{
	request->canned = 501;
	request->canned_text = "{\"code\":12,\"message\":\"the JSON gateway is not there yet\"}\n";
}
