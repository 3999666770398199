/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Secrets on the command line. Every user of a machine can read it (ps, /proc/PID/cmdline), so a password in it is taken away
 * as the first thing that the program does. Until then, for some milliseconds, it was there: --endpoint-file is better.
 */
#ifndef KS_SECRETS_H
#define KS_SECRETS_H

/*
 * A copy of the arguments, to be freed with free(). In argv itself passwords of URLs, the values of flags that end with
 * "password", and what follows the colon of user flags ("--user name:password") become stars; what stood behind them moves up. To be
 * called once, before the first thread; argv's texts are not to be used afterwards.
 */
char **ks_secrets_take(int argc, char **argv);

#endif
