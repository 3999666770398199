/* SPDX-License-Identifier: Apache-2.0 */
/* Last known nodes on disk: one JSON file for the owner only, replaced as a whole. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/diag.h"
#include "base/panic.h"
#include "discovery/discovery_priv.h"

#define FORMAT 1
#define FILE_MAX ((off_t)256 << 20)

/* ---- Reading ---- */

static const char *text_in(const json_t *object, const char *name)
{
	const char *text = json_string_value(json_object_get(object, name));

	return text ? text : "";
}

static bool take_service(struct dpa_discovery *discovery, const json_t *object) KS_REQUIRES(discovery->lock)
{
	struct dpa_nodes nodes = {0};
	struct dpa_service *service;
	enum dpa_discovery_type type;

	if (!dpa_discovery_type_of(text_in(object, "type"), &type))
		return false;
	if (!discovery->config.has[type])
		return true; /* it is not asked any more */
	if (!dpa_nodes_read(json_object_get(object, "nodes"), &nodes)) {
		dpa_nodes_fini(&nodes);
		return false;
	}
	service = dpa_service_get(discovery, type, text_in(object, "service_name"), text_in(object, "namespace_id"),
				  text_in(object, "group_name"));
	if (service) {
		dpa_nodes_move(&service->nodes, &nodes);
		service->known = true;
	}
	dpa_nodes_fini(&nodes);
	return service != NULL;
}

static json_t *read_file(const char *path, const char **fault)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
	struct stat file;
	json_t *root = NULL;

	*fault = NULL;
	if (fd < 0) {
		*fault = errno == ENOENT ? NULL : strerrordesc_np(errno);
		return NULL;
	}
	if (fstat(fd, &file) != 0 || !S_ISREG(file.st_mode) || file.st_size > FILE_MAX)
		*fault = "it is not a file of ours";
	else
		root = json_loadfd(fd, 0, NULL);
	if (!root && !*fault)
		*fault = "it is not JSON";
	(void)close(fd);
	return root;
}

void dpa_saved_load(struct dpa_discovery *discovery)
{
	const char *fault;
	json_t *root = discovery->path ? read_file(discovery->path, &fault) : NULL;
	json_t *service;
	size_t i, refused = 0;

	if (!discovery->path)
		return;
	if (root && (json_integer_value(json_object_get(root, "format")) != FORMAT ||
		     !json_is_array(json_object_get(root, "services"))))
		fault = "it has another format";
	if (!fault) {
		ks_mutex_lock(&discovery->lock);
		json_array_foreach(json_object_get(root, "services"), i, service) refused +=
			!take_service(discovery, service);
		ks_mutex_unlock(&discovery->lock);
	}
	if (refused)
		fault = "some of its services make no sense";
	if (fault)
		ks_diag(KS_WARN, DPA_DISCOVERY_MODULE, "last known nodes cannot be read from %s: %s", discovery->path,
			fault);
	json_decref(root);
}

/* ---- Writing ---- */

static json_t *service_json(const struct dpa_service *service)
{
	json_t *object =
		json_pack("{s:s, s:s}", "type", dpa_discovery_type_name(service->type), "service_name", service->name);

	if (object && *service->namespace_id)
		(void)json_object_set_new(object, "namespace_id", json_string(service->namespace_id));
	if (object && *service->group_name)
		(void)json_object_set_new(object, "group_name", json_string(service->group_name));
	if (object)
		(void)json_object_set_new(object, "nodes", dpa_nodes_json(&service->nodes));
	return object;
}

static char *all_json(struct dpa_discovery *discovery)
{
	json_t *root =
		json_pack("{s:i, s:I, s:[]}", "format", FORMAT, "saved_ms", (json_int_t)dpa_wall_ms(), "services");
	json_t *services = json_object_get(root, "services");
	char *text;

	ks_mutex_lock(&discovery->lock);
	for (size_t i = 0; i < discovery->service_count; i++) {
		if (discovery->services[i]->known)
			(void)json_array_append_new(services, service_json(discovery->services[i]));
	}
	ks_mutex_unlock(&discovery->lock);
	text = json_dumps(root, JSON_COMPACT);
	json_decref(root);
	return text;
}

static bool write_all(int fd, const char *text, size_t size)
{
	while (size > 0) {
		ssize_t wrote = write(fd, text, size);

		if (wrote < 0 && errno == EINTR)
			continue;
		if (wrote <= 0)
			return false;
		text += wrote;
		size -= (size_t)wrote;
	}
	return true;
}

/* The name of the file is safe on disk, too, when its folder is. */
static bool sync_folder(const char *path)
{
	char *folder = ks_xstrdup(path);
	int fd;
	bool fine;

	*strrchr(folder, '/') = '\0';
	fd = open(*folder ? folder : "/", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	fine = fd >= 0 && fsync(fd) == 0;
	if (fd >= 0)
		(void)close(fd);
	free(folder);
	return fine;
}

static bool replace(const char *path, const char *fresh, const char *text)
{
	int fd = open(fresh, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600), code;
	bool fine = fd >= 0 && fchmod(fd, 0600) == 0 && write_all(fd, text, strlen(text)) && fsync(fd) == 0;

	code = errno;
	if (fd >= 0 && close(fd) != 0 && fine) {
		code = errno;
		fine = false;
	}
	if (fine && rename(fresh, path) == 0 && sync_folder(path))
		return true;
	if (fine)
		code = errno;
	else if (fd >= 0)
		(void)unlink(fresh);
	errno = code;
	return false;
}

enum ks_status dpa_saved_write(struct dpa_discovery *discovery, struct ks_err *err)
{
	enum ks_status status = KS_OK;
	char *text, *fresh = NULL;

	if (!discovery->path)
		return KS_OK;
	text = all_json(discovery);
	if (!text)
		return ks_fail(err, KS_RESOURCE_EXHAUSTED, "last known nodes cannot be written: out of memory");
	KS_ASSERT(asprintf(&fresh, "%s.tmp", discovery->path) > 0);
	if (!replace(discovery->path, fresh, text))
		status = ks_fail(err, KS_UNAVAILABLE, "last known nodes cannot be written to %s: %s", discovery->path,
				 strerrordesc_np(errno));
	free(fresh);
	free(text);
	return status;
}
