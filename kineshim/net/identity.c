/* SPDX-License-Identifier: Apache-2.0 */
/* Identities, see identity.h. */
#include "net/identity.h"

#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>

#include "base/list.h"
#include "base/panic.h"

struct counted {
	struct ks_identity identity;
	_Atomic uint32_t refs;
	char *common_name;
	char **names;
};

struct ks_identity *ks_identity_new(const char *common_name, const char *const *names, size_t name_count)
{
	struct counted *counted = ks_xcalloc(1, sizeof(*counted));

	atomic_init(&counted->refs, 1);
	counted->common_name = ks_xstrdup(common_name);
	counted->names = ks_xcalloc(name_count + 1, sizeof(*counted->names));
	for (size_t i = 0; i < name_count; i++)
		counted->names[i] = ks_xstrdup(names[i]);
	counted->identity = (struct ks_identity){
		.common_name = counted->common_name,
		.names = (const char *const *)counted->names,
		.name_count = name_count,
	};
	return &counted->identity;
}

struct ks_identity *ks_identity_ref(struct ks_identity *identity)
{
	if (identity)
		atomic_fetch_add_explicit(&ks_container_of(identity, struct counted, identity)->refs, 1,
					  memory_order_relaxed);
	return identity;
}

void ks_identity_unref(struct ks_identity *identity)
{
	struct counted *counted = identity ? ks_container_of(identity, struct counted, identity) : NULL;

	/* Release: what this thread read was read before the last one frees it; acquire: by that last one. */
	if (!counted || atomic_fetch_sub_explicit(&counted->refs, 1, memory_order_acq_rel) != 1)
		return;
	for (size_t i = 0; i < counted->identity.name_count; i++)
		free(counted->names[i]);
	free(counted->names);
	free(counted->common_name);
	free(counted);
}
