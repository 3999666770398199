/* SPDX-License-Identifier: Apache-2.0 */
/* Where test programs listen and connect: 127.0.0.1, and never anywhere else. */
#ifndef TESTS_LIB_LOOPBACK_H
#define TESTS_LIB_LOOPBACK_H

#include <netinet/in.h>
#include <stdint.h>

/* Port 0: to listen, any that is free. */
static inline struct sockaddr_in loopback(int port)
{
	return (struct sockaddr_in){
		.sin_family = AF_INET, .sin_port = htons((uint16_t)port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
}

#endif
