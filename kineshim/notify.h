/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The service manager: what it is told, and the sockets it hands over. With libsystemd; without it, or when nobody asks, all of
 * this does nothing. Threads: any, but for the sockets: once, before others start.
 */
#ifndef KS_NOTIFY_H
#define KS_NOTIFY_H

#include <stddef.h>

void ks_notify_waiting(const char *for_what); /* started, not ready yet */
void ks_notify_ready(const char *urls);
void ks_notify_stopping(void);

struct ks_notify_socket {
	int fd;
	char name[32]; /* FileDescriptorName of the socket unit */
};

#define KS_NOTIFY_MAX_SOCKETS 64

/* Listening sockets that were handed over (LISTEN_FDS); gives their number. They are the caller's to close. */
size_t ks_notify_sockets(struct ks_notify_socket sockets[KS_NOTIFY_MAX_SOCKETS]);

#endif
