/* SPDX-License-Identifier: Apache-2.0 */
/* systemd's notifications and socket activation, see notify.h. */
#include "config.h"

#include "notify.h"

#ifdef HAVE_SYSTEMD

#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <systemd/sd-daemon.h>

#include "base/diag.h"

void ks_notify_waiting(const char *for_what)
{
	(void)sd_notifyf(0, "STATUS=Waiting for %s", for_what);
}

void ks_notify_ready(const char *urls)
{
	(void)sd_notifyf(0, "READY=1\nSTATUS=Serving clients at %s", urls);
}

void ks_notify_stopping(void)
{
	(void)sd_notify(0, "STOPPING=1\nSTATUS=Letting calls end");
}

size_t ks_notify_sockets(struct ks_notify_socket sockets[KS_NOTIFY_MAX_SOCKETS])
{
	char **names = NULL;
	int count = sd_listen_fds_with_names(1, &names);
	size_t taken = 0;

	for (int i = 0; i < count && taken < KS_NOTIFY_MAX_SOCKETS; i++) {
		int fd = SD_LISTEN_FDS_START + i;

		if (sd_is_socket(fd, AF_UNSPEC, SOCK_STREAM, 1) <= 0) {
			ks_diag(KS_WARN, "main", "the service manager's descriptor is no listening stream socket fd=%d",
				fd);
			continue;
		}
		sockets[taken].fd = fd;
		(void)snprintf(sockets[taken].name, sizeof(sockets[taken].name), "%s",
			       names && names[i] ? names[i] : "");
		taken++;
	}
	for (int i = 0; names && names[i]; i++)
		free(names[i]);
	free(names);
	return taken;
}

#else

void ks_notify_waiting(const char *for_what)
{
	(void)for_what;
}

void ks_notify_ready(const char *urls)
{
	(void)urls;
}

void ks_notify_stopping(void)
{
}

size_t ks_notify_sockets(struct ks_notify_socket sockets[KS_NOTIFY_MAX_SOCKETS])
{
	(void)sockets;
	return 0;
}

#endif
