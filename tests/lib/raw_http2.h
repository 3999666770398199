/* SPDX-License-Identifier: Apache-2.0 */
/* Hand-made HTTP/2 frames for tests, where a proper client is too well-behaved. Failing to send is a failed test. */
#ifndef TESTS_LIB_RAW_HTTP2_H
#define TESTS_LIB_RAW_HTTP2_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Connects to "127.0.0.1:port", sends preface and settings. */
int raw_http2_connect(const char *target);
void raw_http2_settings(int fd);
void raw_http2_open_stream(int fd, uint32_t stream_id, const char *path);
/* The whole request of a unary call, as many of them as wanted, on streams from 'stream_id' on by twos; they arrive together. */
void raw_http2_call_many(int fd, uint32_t stream_id, int count, const char *path, const char *message);
/* Reads frames until so many streams have ended. */
bool raw_http2_wait_ends(int fd, int count, int wait_ms);
void raw_http2_ping(int fd);
/* Reads frames up to a GOAWAY, whose debug text is put into 'text'. False when it did not come. */
bool raw_http2_wait_goaway(int fd, char *text, size_t size, int wait_ms);
/* Reads frames up to the server's settings; the value of one of them, or 'otherwise' when it is not among them. */
uint32_t raw_http2_wait_setting(int fd, uint16_t id, uint32_t otherwise, int wait_ms);
/* Reads frames, without answering any, until the server closes. False when it does not in time. */
bool raw_http2_wait_close(int fd, int wait_ms);
bool raw_http2_wait_ping_acks(int fd, int count, int wait_ms);

#endif
