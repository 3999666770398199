/* SPDX-License-Identifier: Apache-2.0 */
/* The table of errors.h as data. */
#include "api/errors.h"

static const struct {
	enum ks_status status;
	const char *text;
} errors[] = {
#define ROW(name, code, text) [KS_E_##name] = {KS_##code, text},
	KS_ETCD_ERRORS(ROW)
#undef ROW
};

enum ks_status ks_etcd_status(enum ks_etcd_error error)
{
	return errors[error].status;
}

const char *ks_etcd_text(enum ks_etcd_error error)
{
	return errors[error].text;
}

enum ks_status ks_etcd_fail(struct ks_err *err, enum ks_etcd_error error)
{
	return ks_fail(err, errors[error].status, "%s", errors[error].text);
}
