/* SPDX-License-Identifier: Apache-2.0 */
/* One thread accepts, one more for each connection moves its bytes. See cut_proxy.h. */
#include "tests/lib/cut_proxy.h"

#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "tests/lib/loopback.h"

#define MAX_CONNECTIONS 8192
#define AFTERMATH_MS 30 /* how long the server's side is kept after a cut, so that it can do what it was asked */

enum cut { CUT_REQUEST, CUT_MIDDLE, CUT_ANSWER, CUT_LATE, CUTS };

struct connection {
	struct cut_proxy *proxy;
	pthread_t thread;
	int client_fd;
	unsigned seed;
};

struct cut_proxy {
	int listen_fd;
	int target_port;
	int life_ms;
	unsigned seed;
	_Atomic bool stop;
	_Atomic int cut;
	pthread_t thread;
	int count; /* accepting thread, then the one that stops */
	struct connection connections[MAX_CONNECTIONS];
};

static int64_t now_ms(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

static void pause_ms(long ms)
{
	struct timespec pause = {ms / 1000, ms % 1000 * 1000000};

	nanosleep(&pause, NULL);
}

static bool send_all(int fd, const char *data, size_t size)
{
	while (size > 0) {
		ssize_t sent = send(fd, data, size, MSG_NOSIGNAL);

		if (sent <= 0)
			return false;
		data += sent;
		size -= (size_t)sent;
	}
	return true;
}

/* A reset instead of an orderly end, half of the time: clients must take either. */
static void cut_off(int fd, unsigned *seed)
{
	struct linger now = {.l_onoff = 1};

	if (rand_r(seed) % 2)
		setsockopt(fd, SOL_SOCKET, SO_LINGER, &now, sizeof(now));
	close(fd);
}

/* The last request of the connection is in 'data'. */
static void cut_here(struct connection *connection, int server_fd, const char *data, size_t size)
{
	unsigned *seed = &connection->seed;
	enum cut how = (enum cut)(rand_r(seed) % CUTS);

	atomic_fetch_add(&connection->proxy->cut, 1);
	if (how == CUT_MIDDLE)
		send_all(server_fd, data, (size_t)rand_r(seed) % size);
	else if (how == CUT_ANSWER)
		send_all(server_fd, data, size);
	cut_off(connection->client_fd, seed);
	if (how == CUT_LATE) {
		pause_ms(rand_r(seed) % 40);
		send_all(server_fd, data, size);
	}
	if (how != CUT_REQUEST)
		pause_ms(AFTERMATH_MS);
	close(server_fd);
}

static void *carry(void *arg)
{
	struct connection *connection = arg;
	struct cut_proxy *proxy = connection->proxy;
	struct sockaddr_in address = loopback(proxy->target_port);
	int64_t cut_at_ms = now_ms() + rand_r(&connection->seed) % proxy->life_ms;
	int server_fd = socket(AF_INET, SOCK_STREAM, 0);
	char *data = malloc(1 << 16);
	int one = 1;

	setsockopt(server_fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	setsockopt(connection->client_fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	if (!data || connect(server_fd, (struct sockaddr *)&address, sizeof(address)) != 0)
		goto out;
	while (!atomic_load(&proxy->stop)) {
		struct pollfd fds[] = {{.fd = connection->client_fd, .events = POLLIN},
				       {.fd = server_fd, .events = POLLIN}};
		ssize_t size;

		if (poll(fds, 2, 20) <= 0)
			continue;
		if (fds[0].revents) {
			size = recv(connection->client_fd, data, 1 << 16, 0);
			if (size > 0 && now_ms() >= cut_at_ms) {
				cut_here(connection, server_fd, data, (size_t)size);
				free(data);
				return NULL;
			}
			if (size <= 0 || !send_all(server_fd, data, (size_t)size))
				break;
		}
		if (fds[1].revents) {
			size = recv(server_fd, data, 1 << 16, 0);
			if (size <= 0 || !send_all(connection->client_fd, data, (size_t)size))
				break;
		}
	}
out:
	close(server_fd);
	close(connection->client_fd);
	free(data);
	return NULL;
}

static void *accept_all(void *arg)
{
	struct cut_proxy *proxy = arg;

	while (!atomic_load(&proxy->stop) && proxy->count < MAX_CONNECTIONS) {
		struct pollfd fd = {.fd = proxy->listen_fd, .events = POLLIN};
		struct connection *connection = &proxy->connections[proxy->count];
		int client_fd;

		if (poll(&fd, 1, 20) <= 0)
			continue;
		client_fd = accept(proxy->listen_fd, NULL, NULL);
		if (client_fd < 0)
			continue;
		*connection = (struct connection){
			.proxy = proxy, .client_fd = client_fd, .seed = proxy->seed + (unsigned)proxy->count * 7919u};
		if (pthread_create(&connection->thread, NULL, carry, connection) == 0)
			proxy->count++;
		else
			close(client_fd);
	}
	return NULL;
}

struct cut_proxy *cut_proxy_start(int target_port, int life_ms, unsigned seed, int *port)
{
	struct cut_proxy *proxy = calloc(1, sizeof(*proxy));
	struct sockaddr_in address = loopback(0);
	socklen_t size = sizeof(address);

	if (!proxy)
		return NULL;
	proxy->target_port = target_port;
	proxy->life_ms = life_ms;
	proxy->seed = seed;
	proxy->listen_fd = socket(AF_INET, SOCK_STREAM, 0);
	if (bind(proxy->listen_fd, (struct sockaddr *)&address, size) == 0 && listen(proxy->listen_fd, 64) == 0 &&
	    getsockname(proxy->listen_fd, (struct sockaddr *)&address, &size) == 0 &&
	    pthread_create(&proxy->thread, NULL, accept_all, proxy) == 0) {
		*port = ntohs(address.sin_port);
		return proxy;
	}
	close(proxy->listen_fd);
	free(proxy);
	return NULL;
}

int cut_proxy_stop(struct cut_proxy *proxy)
{
	int cut;

	atomic_store(&proxy->stop, true);
	pthread_join(proxy->thread, NULL);
	for (int i = 0; i < proxy->count; i++)
		pthread_join(proxy->connections[i].thread, NULL);
	cut = atomic_load(&proxy->cut);
	close(proxy->listen_fd);
	free(proxy);
	return cut;
}
