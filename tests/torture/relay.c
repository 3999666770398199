/* SPDX-License-Identifier: Apache-2.0 */
/* One thread accepts, two for each connection move its bytes, one in each direction. See relay.h. */
#include "tests/torture/relay.h"

#include <errno.h>
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

#include "base/panic.h"
#include "tests/lib/loopback.h"

#define TICK_MS 50 /* how late a thread notices that it should do something else */
#define PIECE (16 * 1024)
#define MAX_CONNECTIONS 500

struct direction {
	struct connection *connection;
	int from, to;
	bool to_target;
	unsigned seed;
};

struct connection {
	struct connection *next, *prev;
	struct relay *relay;
	int client_fd, target_fd;
	struct direction directions[2];
	_Atomic int cut; /* enum relay_cut */
	_Atomic bool over;
	int running; /* directions; under the relay's mutex */
};

struct relay {
	int listen_fd, target_port;
	unsigned seed;
	pthread_t thread;
	pthread_mutex_t mutex;
	pthread_cond_t gone;
	struct connection connections; /* head of the list; under the mutex */
	unsigned count;
	_Atomic bool stop;
	_Atomic int mode, delay_ms;
};

static void pause_ms(long ms)
{
	nanosleep(&(struct timespec){ms / 1000, ms % 1000 * 1000000}, NULL);
}

static bool holds(const struct direction *direction)
{
	switch ((enum relay_mode)atomic_load(&direction->connection->relay->mode)) {
	case RELAY_HOLD_TO:
		return direction->to_target;
	case RELAY_HOLD_FROM:
		return !direction->to_target;
	case RELAY_HOLD_BOTH:
		return true;
	case RELAY_PASS:
	case RELAY_REFUSE:
	case RELAY_MODES:
		break;
	}
	return false;
}

static bool is_over(const struct connection *connection)
{
	int cut = atomic_load(&connection->cut);

	return atomic_load(&connection->over) || atomic_load(&connection->relay->stop) || cut == RELAY_CUT_CLOSE ||
	       cut == RELAY_CUT_RESET;
}

/* False: the connection is over. */
static bool send_all(const struct direction *direction, const char *data, size_t size)
{
	while (size > 0) {
		ssize_t sent = send(direction->to, data, size, MSG_NOSIGNAL);

		if (is_over(direction->connection))
			return false;
		if (sent < 0 && (errno == EAGAIN || errno == EINTR))
			continue; /* the other side does not read */
		if (sent <= 0)
			return false;
		data += sent;
		size -= (size_t)sent;
	}
	return true;
}

/* Waits as long as the link is to be slow or held. False: the connection is over. */
static bool wait_for_turn(struct direction *direction)
{
	int delay_ms = atomic_load(&direction->connection->relay->delay_ms);

	if (delay_ms > 0)
		pause_ms(rand_r(&direction->seed) % delay_ms);
	while (holds(direction) && !is_over(direction->connection))
		pause_ms(5);
	return !is_over(direction->connection);
}

/* False: the connection is over. */
static bool pass_on(struct direction *direction, const char *data, size_t size)
{
	if (!wait_for_turn(direction))
		return false;
	if (atomic_load(&direction->connection->cut) == RELAY_CUT_MIDDLE) {
		(void)send_all(direction, data, (size_t)rand_r(&direction->seed) % size);
		atomic_store(&direction->connection->cut, RELAY_CUT_RESET);
		return false;
	}
	return send_all(direction, data, size);
}

static void move(struct direction *direction)
{
	struct connection *connection = direction->connection;
	char *data = ks_xmalloc(PIECE);

	while (!is_over(connection) && !(direction->to_target && atomic_load(&connection->cut) == RELAY_CUT_HALF)) {
		ssize_t size = recv(direction->from, data, PIECE, 0);

		if (size < 0 && (errno == EAGAIN || errno == EINTR))
			continue;
		if (size == 0)
			break; /* the other direction may go on */
		if (size < 0 || !pass_on(direction, data, (size_t)size)) {
			atomic_store(&connection->over, true);
			break;
		}
	}
	free(data);
	shutdown(direction->to, SHUT_WR);
}

static void end(struct connection *connection)
{
	struct relay *relay = connection->relay;
	struct linger now = {.l_onoff = 1};

	if (atomic_load(&connection->cut) == RELAY_CUT_RESET) {
		setsockopt(connection->client_fd, SOL_SOCKET, SO_LINGER, &now, sizeof(now));
		setsockopt(connection->target_fd, SOL_SOCKET, SO_LINGER, &now, sizeof(now));
	}
	close(connection->client_fd);
	close(connection->target_fd);
	connection->prev->next = connection->next;
	connection->next->prev = connection->prev;
	relay->count--;
	pthread_cond_signal(&relay->gone);
	free(connection);
}

static void *direction_run(void *arg)
{
	struct direction *direction = arg;
	struct connection *connection = direction->connection;
	struct relay *relay = connection->relay;

	move(direction);
	pthread_mutex_lock(&relay->mutex);
	if (--connection->running == 0)
		end(connection);
	pthread_mutex_unlock(&relay->mutex);
	return NULL;
}

static void prepare(int fd)
{
	struct timeval tick = {.tv_usec = TICK_MS * 1000};
	int one = 1;

	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &tick, sizeof(tick));
	setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &tick, sizeof(tick));
}

static void reset(int fd)
{
	struct linger now = {.l_onoff = 1};

	setsockopt(fd, SOL_SOCKET, SO_LINGER, &now, sizeof(now));
	close(fd);
}

/* Under the mutex, so that the first thread cannot end before the second is counted. */
static void begin(struct relay *relay, int client_fd, int target_fd)
{
	struct connection *connection = ks_xcalloc(1, sizeof(*connection));
	pthread_attr_t detached;
	pthread_t thread;

	connection->relay = relay;
	connection->client_fd = client_fd;
	connection->target_fd = target_fd;
	connection->next = &relay->connections;
	connection->prev = relay->connections.prev;
	connection->prev->next = connection->next->prev = connection;
	relay->count++;
	pthread_attr_init(&detached);
	pthread_attr_setdetachstate(&detached, PTHREAD_CREATE_DETACHED);
	pthread_attr_setstacksize(&detached, 256 * 1024);
	for (int i = 0; i < 2; i++) {
		struct direction *direction = &connection->directions[i];

		*direction = (struct direction){.connection = connection,
						.from = i ? target_fd : client_fd,
						.to = i ? client_fd : target_fd,
						.to_target = i == 0,
						.seed = relay->seed++};
		connection->running++;
		if (pthread_create(&thread, &detached, direction_run, direction) != 0) {
			connection->running--;
			atomic_store(&connection->over, true);
		}
	}
	if (!connection->running)
		end(connection);
	pthread_attr_destroy(&detached);
}

static bool has_room(struct relay *relay)
{
	bool has;

	pthread_mutex_lock(&relay->mutex);
	has = relay->count < MAX_CONNECTIONS;
	pthread_mutex_unlock(&relay->mutex);
	return has;
}

static void take(struct relay *relay, int client_fd)
{
	struct sockaddr_in address = loopback(relay->target_port);
	int target_fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	/* A target that is down refuses at once on loopback; one that is stopped accepts in its backlog. */
	if (target_fd < 0 || !has_room(relay) || atomic_load(&relay->mode) == RELAY_REFUSE ||
	    connect(target_fd, (struct sockaddr *)&address, sizeof(address)) != 0) {
		if (target_fd >= 0)
			close(target_fd);
		reset(client_fd);
		return;
	}
	prepare(client_fd);
	prepare(target_fd);
	pthread_mutex_lock(&relay->mutex);
	begin(relay, client_fd, target_fd);
	pthread_mutex_unlock(&relay->mutex);
}

static void *accept_all(void *arg)
{
	struct relay *relay = arg;

	while (!atomic_load(&relay->stop)) {
		struct pollfd fd = {.fd = relay->listen_fd, .events = POLLIN};
		int client_fd;

		if (poll(&fd, 1, TICK_MS) <= 0)
			continue;
		client_fd = accept4(relay->listen_fd, NULL, NULL, SOCK_CLOEXEC);
		if (client_fd >= 0)
			take(relay, client_fd);
	}
	return NULL;
}

struct relay *relay_start(int target_port, unsigned seed, int *port)
{
	struct relay *relay = ks_xcalloc(1, sizeof(*relay));
	struct sockaddr_in address = loopback(0);
	socklen_t size = sizeof(address);

	relay->target_port = target_port;
	relay->seed = seed;
	relay->connections.next = relay->connections.prev = &relay->connections;
	pthread_mutex_init(&relay->mutex, NULL);
	pthread_cond_init(&relay->gone, NULL);
	relay->listen_fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (relay->listen_fd >= 0 && bind(relay->listen_fd, (struct sockaddr *)&address, size) == 0 &&
	    listen(relay->listen_fd, 128) == 0 &&
	    getsockname(relay->listen_fd, (struct sockaddr *)&address, &size) == 0 &&
	    pthread_create(&relay->thread, NULL, accept_all, relay) == 0) {
		*port = ntohs(address.sin_port);
		return relay;
	}
	if (relay->listen_fd >= 0)
		close(relay->listen_fd);
	free(relay);
	return NULL;
}

void relay_stop(struct relay *relay)
{
	if (!relay)
		return;
	atomic_store(&relay->stop, true);
	pthread_join(relay->thread, NULL);
	pthread_mutex_lock(&relay->mutex);
	while (relay->count > 0)
		pthread_cond_wait(&relay->gone, &relay->mutex);
	pthread_mutex_unlock(&relay->mutex);
	close(relay->listen_fd);
	pthread_cond_destroy(&relay->gone);
	pthread_mutex_destroy(&relay->mutex);
	free(relay);
}

void relay_set_mode(struct relay *relay, enum relay_mode mode)
{
	atomic_store(&relay->mode, (int)mode);
}

void relay_set_delay(struct relay *relay, int delay_ms)
{
	atomic_store(&relay->delay_ms, delay_ms);
}

unsigned relay_cut(struct relay *relay, enum relay_cut how)
{
	unsigned count = 0;

	pthread_mutex_lock(&relay->mutex);
	for (struct connection *connection = relay->connections.next; connection != &relay->connections;
	     connection = connection->next, count++)
		atomic_store(&connection->cut, (int)how);
	pthread_mutex_unlock(&relay->mutex);
	return count;
}
