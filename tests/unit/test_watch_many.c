/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Many watches on one stream, without a network: those that wait for the same are served by one read, and each must get exactly what it
 * would get alone. A seeded life with puts, deletes, transactions, values of every size (also evicted ones), creates, cancels,
 * and a client that reads now and then, compared with a list of what was written.
 */
#undef malloc
#undef calloc
#undef realloc
#undef reallocarray
#include "tests/lib/tap.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/panic.h"
#include "proto/rpc.pb-c.h"
#include "tests/lib/api_fixture.h"
#include "tests/lib/fake_call.h"

#define KEYS 3
#define WRITTEN_MAX 4096
#define WATCHES_MAX 2048
#define VALUE_MAX 20000

struct written {
	int64_t revision;
	int key;
	bool is_delete;
	size_t size;
	bool has_prev;
	size_t prev_size;
};

struct watched {
	int key; /* KEYS: all of them */
	bool prev_kv, no_put, no_delete, fragment;
	bool created, cancelled, ended;
	int64_t start;
	size_t at; /* in 'written': all before were seen, or are not for it */
};

static struct written written[WRITTEN_MAX];
static size_t written_count;
static struct watched watches[WATCHES_MAX + 1]; /* by id, from 1 on */
static int watch_count;
static int64_t revision; /* the last one written */
static struct ks_call *stream;
static uint64_t random_state;

static uint64_t draw(uint64_t below)
{
	random_state += 0x9e3779b97f4a7c15u;
	return (random_state * 0xd6e8feb86659fd93u >> 33) % below;
}

static bool idle(void *ctx)
{
	(void)ctx;
	return fake_committer_step(&fix.committer);
}

static void settle(void)
{
	do
		fake_run();
	while (idle(NULL));
}

/* ---- writing ---- */

static ProtobufCBinaryData key_data(int key)
{
	static uint8_t names[KEYS + 1] = {'a', 'b', 'c', 'd'};

	return (ProtobufCBinaryData){1, &names[key]};
}

static struct ks_slice pack(const void *message)
{
	static uint8_t packed[4 * VALUE_MAX];

	CU_ASSERT_FATAL(protobuf_c_message_get_packed_size(message) <= sizeof(packed));
	return ks_slice_of(packed, protobuf_c_message_pack(message, packed));
}

/* What the key holds now; NULL: nothing. */
static const struct written *now_of(int key)
{
	for (size_t i = written_count; i-- > 0;) {
		if (written[i].key == key)
			return written[i].is_delete ? NULL : &written[i];
	}
	return NULL;
}

static void note(int key, bool is_delete, size_t size)
{
	const struct written *prev = now_of(key);

	CU_ASSERT_FATAL(written_count < WRITTEN_MAX);
	written[written_count++] = (struct written){.revision = revision,
						    .key = key,
						    .is_delete = is_delete,
						    .size = size,
						    .has_prev = prev != NULL,
						    .prev_size = prev ? prev->size : 0};
}

static void call(const char *path, const void *request)
{
	struct fake_answer answer;

	fake_unary(path, pack(request), NULL, &answer);
	CU_ASSERT_EQUAL_FATAL(answer.status, KS_OK);
	fake_answer_fini(&answer);
}

static size_t draw_size(void)
{
	static const size_t sizes[] = {0, 1, 100, 100, 100, 100, 100, 100, 2047, 2048, 9000, VALUE_MAX};

	return sizes[draw(sizeof(sizes) / sizeof(*sizes))];
}

static uint8_t value[VALUE_MAX];

static void put(int key)
{
	Etcdserverpb__PutRequest request = ETCDSERVERPB__PUT_REQUEST__INIT;
	size_t size = draw_size();

	request.key = key_data(key);
	request.value = (ProtobufCBinaryData){size, value};
	revision++;
	note(key, false, size);
	call("/etcdserverpb.KV/Put", &request);
}

static void del(int key)
{
	Etcdserverpb__DeleteRangeRequest request = ETCDSERVERPB__DELETE_RANGE_REQUEST__INIT;

	if (!now_of(key))
		return;
	request.key = key_data(key);
	revision++;
	note(key, true, 0);
	call("/etcdserverpb.KV/DeleteRange", &request);
}

/* All keys at one revision: a response never ends between them. */
static void put_all(void)
{
	Etcdserverpb__TxnRequest txn = ETCDSERVERPB__TXN_REQUEST__INIT;
	Etcdserverpb__PutRequest puts[KEYS];
	Etcdserverpb__RequestOp ops[KEYS], *list[KEYS];

	revision++;
	for (int key = 0; key < KEYS; key++) {
		size_t size = draw_size();

		etcdserverpb__put_request__init(&puts[key]);
		etcdserverpb__request_op__init(&ops[key]);
		puts[key].key = key_data(key);
		puts[key].value = (ProtobufCBinaryData){size, value};
		ops[key].request_case = ETCDSERVERPB__REQUEST_OP__REQUEST_REQUEST_PUT;
		ops[key].request_put = &puts[key];
		list[key] = &ops[key];
		note(key, false, size);
	}
	txn.n_success = KEYS;
	txn.success = list;
	call("/etcdserverpb.KV/Txn", &txn);
}

/* ---- watching ---- */

static bool is_for(const struct watched *watch, const struct written *one)
{
	return one->revision >= watch->start && (watch->key == KEYS || watch->key == one->key) &&
	       !(one->is_delete ? watch->no_delete : watch->no_put);
}

/* The next that the watch must be told; NULL: nothing. */
static const struct written *expected(struct watched *watch)
{
	while (watch->at < written_count && !is_for(watch, &written[watch->at]))
		watch->at++;
	return watch->at < written_count ? &written[watch->at] : NULL;
}

static void create(const struct watched *like)
{
	static const Etcdserverpb__WatchCreateRequest__FilterType filters[] = {
		ETCDSERVERPB__WATCH_CREATE_REQUEST__FILTER_TYPE__NOPUT,
		ETCDSERVERPB__WATCH_CREATE_REQUEST__FILTER_TYPE__NODELETE};
	Etcdserverpb__WatchCreateRequest__FilterType wanted[2];
	Etcdserverpb__WatchCreateRequest request = ETCDSERVERPB__WATCH_CREATE_REQUEST__INIT;
	Etcdserverpb__WatchRequest message = ETCDSERVERPB__WATCH_REQUEST__INIT;
	struct watched *watch = &watches[++watch_count];

	CU_ASSERT_FATAL(watch_count <= WATCHES_MAX);
	*watch = *like;
	request.watch_id = watch_count;
	request.key = key_data(like->key < KEYS ? like->key : 0);
	if (like->key == KEYS)
		request.range_end = key_data(KEYS);
	request.start_revision = like->start;
	request.prev_kv = like->prev_kv;
	request.fragment = like->fragment;
	request.filters = wanted;
	if (like->no_put)
		wanted[request.n_filters++] = filters[0];
	if (like->no_delete)
		wanted[request.n_filters++] = filters[1];
	if (!watch->start)
		watch->start = revision + 1;
	message.request_union_case = ETCDSERVERPB__WATCH_REQUEST__REQUEST_UNION_CREATE_REQUEST;
	message.create_request = &request;
	fake_stream_message(stream, pack(&message));
}

static void create_some(void)
{
	struct watched like = {
		.key = (int)draw(KEYS + 1),
		.prev_kv = draw(3) == 0,
		.no_put = draw(10) == 0,
		.no_delete = draw(10) == 0,
		.fragment = draw(4) == 0,
		.start = draw(3) ? 0 : 1 + (int64_t)draw((uint64_t)revision + 3),
	};

	for (uint64_t left = 1 + draw(40); left > 0; left--)
		create(&like);
}

static void cancel(int id)
{
	Etcdserverpb__WatchCancelRequest request = ETCDSERVERPB__WATCH_CANCEL_REQUEST__INIT;
	Etcdserverpb__WatchRequest message = ETCDSERVERPB__WATCH_REQUEST__INIT;

	request.watch_id = id;
	watches[id].cancelled = true;
	message.request_union_case = ETCDSERVERPB__WATCH_REQUEST__REQUEST_UNION_CANCEL_REQUEST;
	message.cancel_request = &request;
	fake_stream_message(stream, pack(&message));
}

static bool check_event(struct watched *watch, const Mvccpb__Event *event)
{
	const struct written *want = expected(watch);

	if (!want)
		return false;
	watch->at++;
	return event->kv->mod_revision == want->revision && event->kv->key.data[0] == key_data(want->key).data[0] &&
	       (event->type == MVCCPB__EVENT__EVENT_TYPE__DELETE) == want->is_delete &&
	       event->kv->value.len == want->size && (event->prev_kv != NULL) == (watch->prev_kv && want->has_prev) &&
	       (!event->prev_kv || event->prev_kv->value.len == want->prev_size);
}

static void check_response(const Etcdserverpb__WatchResponse *response)
{
	struct watched *watch = &watches[response->watch_id];
	int64_t last = 0;
	bool right = true;

	CU_ASSERT_FATAL(response->watch_id >= 1 && response->watch_id <= watch_count);
	CU_ASSERT_FALSE(watch->ended);
	watch->created |= response->created != 0;
	watch->ended |= response->canceled != 0;
	CU_ASSERT_EQUAL(watch->ended, response->canceled && watch->cancelled);
	for (size_t i = 0; i < response->n_events && right; i++) {
		right = watch->created && check_event(watch, response->events[i]);
		last = response->events[i]->kv->mod_revision;
	}
	CU_ASSERT_TRUE_FATAL(right);
	if (!response->n_events)
		return;
	CU_ASSERT_TRUE(response->header->revision >= last);
	CU_ASSERT_TRUE(watch->fragment || !response->fragment);
	if (!response->fragment) {
		const struct written *next = expected(watch);

		CU_ASSERT_TRUE(!next || next->revision > last);
	}
}

/* Up to so many responses. */
static size_t read_some(size_t most)
{
	size_t count = 0, size;
	uint8_t *data;

	while (count < most && fake_stream_next(stream, &data, &size)) {
		Etcdserverpb__WatchResponse *response = etcdserverpb__watch_response__unpack(NULL, size, data);

		CU_ASSERT_PTR_NOT_NULL_FATAL(response);
		check_response(response);
		etcdserverpb__watch_response__free_unpacked(response, NULL);
		free(data);
		count++;
	}
	return count;
}

static void begin(uint64_t seed)
{
	random_state = seed;
	written_count = 0;
	watch_count = 0;
	memset(watches, 0, sizeof(watches));
	api_fixture_start(true, 30000, 4, idle);
	api_fixture_first_entry();
	revision = ks_store_committed(fix.store).revision;
	stream = fake_stream_open("/etcdserverpb.Watch/Watch", NULL);
}

/* Longer than a stream rests between two rounds. */
static void let_rest(void)
{
	(void)usleep(5000);
	settle();
}

static void end(void)
{
	do
		let_rest();
	while (read_some(SIZE_MAX) > 0);
	for (int id = 1; id <= watch_count; id++) {
		CU_ASSERT_TRUE(watches[id].created);
		CU_ASSERT_EQUAL(watches[id].ended, watches[id].cancelled);
		CU_ASSERT_TRUE(watches[id].cancelled || !expected(&watches[id]));
	}
	fake_stream_close(stream);
	settle();
	api_fixture_stop();
}

static void live(uint64_t seed)
{
	begin(seed);
	for (int step = 0; step < 250; step++) {
		switch (draw(12)) {
		case 0:
			if (watch_count < WATCHES_MAX - 100)
				create_some();
			break;
		case 1:
			for (uint64_t left = draw(8); left > 0 && watch_count > 0; left--)
				cancel(1 + (int)draw((uint64_t)watch_count));
			break;
		case 2:
			del((int)draw(KEYS));
			break;
		case 3:
			put_all();
			break;
		case 4:
		case 5:
			settle();
			break;
		case 6:
		case 7:
			(void)read_some(draw(300));
			break;
		default:
			put((int)draw(KEYS));
		}
	}
	end();
}

static void each_watch_gets_what_it_would_get_alone(void)
{
	for (uint64_t seed = 1; seed <= 8; seed++) {
		unsigned before = CU_get_number_of_failures();

		live(seed);
		if (CU_get_number_of_failures() > before)
			printf("# seed %llu\n", (unsigned long long)seed);
	}
}

/* Slow clients hold one queue's worth, however many watches have the same to be told; and then nothing is missing. */
static void client_that_does_not_read_holds_a_queue_and_no_more(void)
{
	struct watched like = {.key = 0};
	size_t bytes;

	begin(99);
	for (int i = 0; i < 1000; i++) {
		create(&like);
		(void)read_some(SIZE_MAX);
	}
	for (int i = 0; i < 100; i++) {
		put(0);
		settle();
		CU_ASSERT_TRUE(ks_stream_queued(stream, &bytes) <= 128);
		CU_ASSERT_TRUE(bytes <= (1u << 20));
	}
	end();
}

/* What a client gets that reads until there is nothing: large values come a queue at a time. */
static size_t read_all(void)
{
	size_t count = 0, some;

	do {
		settle();
		some = read_some(SIZE_MAX);
		count += some;
	} while (some > 0);
	return count;
}

/* 'count' watches of one key, many times so many puts, one right behind the other. How often the first one's round was put off. */
static int count_rests(int count, int puts)
{
	struct watched like = {.key = 0};
	int rests = 0;

	begin(7);
	for (int i = 0; i < count; i++)
		create(&like);
	(void)read_some(SIZE_MAX);
	for (int i = 0; i < 300; i++) {
		size_t read;

		for (int j = 0; j < puts; j++)
			put(0);
		read = read_all();
		rests += read == 0;
		/* On a busy machine the timer may be late. */
		for (int tries = 0; read == 0 && tries < 2000; tries++) {
			let_rest();
			read = read_all();
		}
		CU_ASSERT(read >= (size_t)count);
	}
	end();
	return rests;
}

/* On a busy machine a rest may be over before we look, but hardly each time. */
static void round_of_many_responses_makes_the_next_one_wait(void)
{
	CU_ASSERT_EQUAL(count_rests(63, 2), 0);
	CU_ASSERT(count_rests(64, 2) > 20);
}

/* A writer that puts only when all have its last event gains nothing by rests, and loses time: there is a trial now and then. */
static void round_waits_only_where_that_saves_responses(void)
{
	CU_ASSERT(count_rests(64, 1) <= 4);
}

int main(void)
{
	static const struct tap_test tests[] = {
		{"each_watch_gets_what_it_would_get_alone", each_watch_gets_what_it_would_get_alone},
		{"client_that_does_not_read_holds_a_queue_and_no_more",
		 client_that_does_not_read_holds_a_queue_and_no_more},
		{"round_of_many_responses_makes_the_next_one_wait", round_of_many_responses_makes_the_next_one_wait},
		{"round_waits_only_where_that_saves_responses", round_waits_only_where_that_saves_responses},
		{NULL, NULL},
	};

	return tap_run("watch_many", tests);
}
