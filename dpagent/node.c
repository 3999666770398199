/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The node's id, see node.h. The machine's id alone would do for one agent on a real machine; images are copied with it, though,
 * and containers may share it, so name and folder go in, too.
 */
#include "node.h"

#include <limits.h>
#include <openssl/evp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/panic.h"

static void digest(const char *const *parts, size_t count, unsigned char out[EVP_MAX_MD_SIZE])
{
	EVP_MD_CTX *ctx = EVP_MD_CTX_new();
	bool fine = ctx && EVP_DigestInit_ex(ctx, EVP_sha256(), NULL) == 1;

	for (size_t i = 0; i < count && fine; i++)
		fine = EVP_DigestUpdate(ctx, parts[i], strlen(parts[i]) + 1) == 1;
	fine = fine && EVP_DigestFinal_ex(ctx, out, NULL) == 1;
	EVP_MD_CTX_free(ctx);
	KS_ASSERT(fine);
}

static void read_machine_id(char id[64])
{
	FILE *file = fopen("/etc/machine-id", "re");

	if (file && !fgets(id, 64, file))
		id[0] = '\0';
	if (file)
		(void)fclose(file);
}

void dpa_node_id(const struct ks_options *options, char id[DPA_NODE_ID_MAX])
{
	char machine[64] = "", host[256] = "";
	char *folder = realpath(options->data_dir, NULL);
	const char *const parts[] = {"dpagent", machine, host, folder ? folder : options->data_dir};
	unsigned char hash[EVP_MAX_MD_SIZE];

	if (*options->node_id) {
		(void)snprintf(id, DPA_NODE_ID_MAX, "%s", options->node_id);
	} else {
		read_machine_id(machine);
		(void)gethostname(host, sizeof(host) - 1);
		digest(parts, sizeof(parts) / sizeof(*parts), hash);
		for (size_t i = 0; i < 8; i++)
			(void)snprintf(id + 2 * i, 3, "%02x", hash[i]);
	}
	free(folder);
}

uint64_t dpa_node_member(const char *id)
{
	const char *const parts[] = {id};
	unsigned char hash[EVP_MAX_MD_SIZE];
	uint64_t member = 0;

	digest(parts, 1, hash);
	memcpy(&member, hash, sizeof(member));
	return member ? member : 1;
}
