/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Who calls, and may they? (spec 7.2 - 7.4)
 *
 * Writes take their caller along (ks_write does it): permissions are judged on the tail, in the log's order. Reads are judged
 * here, on the committed view: open an access, check, read, and see that it still holds; if not, all of it again. Calls that
 * are for administrators, or for anybody with a name, are judged before their handler runs: the table in access.c
 * says which, and what it does not name is for administrators.
 *
 * Memory: names live in the arena that is given. Threads: the call's cq thread.
 */
#ifndef KS_API_ACCESS_H
#define KS_API_ACCESS_H

#include "api/api.h"
#include "store/auth.h"

/* Fills 'caller' from the call's token or certificate. KS_UNAUTHENTICATED: a token that is none. */
enum ks_status ks_api_caller(struct ks_api *api, struct ks_call *call, struct ks_arena *arena, struct ks_caller *caller,
			     struct ks_err *err) KS_MUST_CHECK;
/* After a write failed: would it be worth to look the caller up again, because users or roles changed meanwhile? */
bool ks_api_caller_is_stale(const struct ks_caller *caller, const struct ks_err *err);

struct ks_access {
	struct ks_caller caller;
	struct ks_auth *auth; /* NULL: auth is off */
};

/* On KS_OK to be followed by ks_access_close. */
enum ks_status ks_access_open(struct ks_api *api, struct ks_call *call, struct ks_arena *arena,
			      struct ks_access *access, struct ks_err *err) KS_MUST_CHECK;
/* Has nothing changed for users and roles since it was opened? */
bool ks_access_holds(struct ks_api *api, const struct ks_access *access);
void ks_access_close(struct ks_access *access);
/* How often something is judged again because users or roles changed in the middle. */
#define KS_ACCESS_ROUNDS 16

enum ks_status ks_access_check(const struct ks_access *access, const struct ks_interval *interval,
			       enum ks_perm_type need, struct ks_err *err) KS_MUST_CHECK;
enum ks_status ks_access_check_txn(const struct ks_access *access, const struct ks_txn_req *txn,
				   struct ks_err *err) KS_MUST_CHECK;
enum ks_status ks_access_check_user(const struct ks_access *access, struct ks_err *err) KS_MUST_CHECK;
enum ks_status ks_access_check_admin(const struct ks_access *access, struct ks_err *err) KS_MUST_CHECK;
/* The keys of a lease that was read with them: whoever shows them judges what he shows. Administrators may do all. */
enum ks_status ks_access_check_keys(const struct ks_access *access, const struct ks_lease_info *lease,
				    enum ks_perm_type need, struct ks_err *err) KS_MUST_CHECK;
/* Every key that hangs on the lease; nothing when there is no such lease. */
enum ks_status ks_access_check_lease(struct ks_api *api, const struct ks_access *access, int64_t lease,
				     enum ks_perm_type need, struct ks_err *err) KS_MUST_CHECK;
/* The same with an access of its own: open, any user, keys of the lease, close. */
enum ks_status ks_access_for_lease(struct ks_api *api, struct ks_call *call, struct ks_arena *arena, int64_t lease,
				   enum ks_perm_type need, struct ks_err *err) KS_MUST_CHECK;

/* ---- the table ---- */

enum ks_access_rule {
	KS_ACCESS_ADMIN,
	KS_ACCESS_ALARM, /* GET: any user; others: admin */
	KS_ACCESS_USER,
	KS_ACCESS_OPEN, /* everybody, or the handler sees to it */
};

enum ks_access_rule ks_access_rule_of(const char *path);
/* 'message' may be NULL for streams. */
enum ks_status ks_access_check_rule(struct ks_api *api, struct ks_call *call, enum ks_access_rule rule,
				    const ProtobufCMessage *message, struct ks_err *err) KS_MUST_CHECK;
/* The call's token names a state of users and roles that we have not seen yet: a read proof will bring it. */
bool ks_access_is_ahead(struct ks_api *api, struct ks_call *call);

#endif
