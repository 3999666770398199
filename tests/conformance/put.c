/* SPDX-License-Identifier: Apache-2.0 */
/* Put and DeleteRange (spec 2.1, 2.2, 14.2). */
#include "tests/conformance/conf.h"

static void versions(struct conf *conf)
{
	PUT("key:'a' value:'1'");
	RANGE("key:'a'");
	PUT("key:'a' value:'1'");
	RANGE("key:'a'");
	DELETE("key:'a'");
	PUT("key:'a' value:'1'");
	RANGE("key:'a'");
}

static void prev_kv(struct conf *conf)
{
	PUT("key:'a' value:'1' prev_kv:1");
	PUT("key:'a' value:'2' prev_kv:1");
	PUT("key:'a' value:'3'");
	GRANT("TTL:1000 ID:5");
	PUT("key:'a' value:'4' lease:5 prev_kv:1");
	PUT("key:'a' prev_kv:1");
	DELETE("key:'a' prev_kv:1");
	PUT("key:'a' prev_kv:1");
}

static void ignore_value_and_lease(struct conf *conf)
{
	PUT("key:'b' ignore_value:1");
	PUT("key:'b' ignore_lease:1");
	PUT("key:'a' value:'x' ignore_value:1");
	PUT("key:'a' lease:1 ignore_lease:1");
	PUT("value:'x' ignore_value:1");
	PUT("key:'a' value:'x' ignore_value:1 lease:1 ignore_lease:1");
	RANGE("key:'b'");
	GRANT("TTL:1000 ID:5");
	PUT("key:'a' value:'1' lease:5");
	PUT("key:'a' ignore_value:1");
	RANGE("key:'a'");
	PUT("key:'a' ignore_value:1 lease:5");
	RANGE("key:'a'");
	PUT("key:'a' value:'2' ignore_lease:1");
	RANGE("key:'a'");
	PUT("key:'a' ignore_value:1 ignore_lease:1 prev_kv:1");
	RANGE("key:'a'");
	DELETE("key:'a'");
	PUT("key:'a' ignore_value:1 ignore_lease:1");
}

static void unknown_leases(struct conf *conf)
{
	PUT("key:'a' lease:99");
	PUT("key:'zz' lease:99 ignore_value:1");
	PUT("key:'a' lease:-1");
	RANGE("key:'a'");
}

static void deletes(struct conf *conf)
{
	DELETE("key:'nope'");
	PUT("key:'a' value:'1'");
	DELETE("key:'a'");
	DELETE("key:'a'");
	DELETE(" ");
	DELETE("range_end:'z'");
	PUT("key:'a' value:'1'");
	PUT("key:'b' value:'2'");
	PUT("key:'c' value:'3'");
	DELETE("key:'c' range_end:'a'");
	DELETE("key:'a' range_end:'a'");
	DELETE("key:'a' range_end:'c' prev_kv:1");
	RANGE("key:'\\x00' range_end:'\\x00'");
	RANGE("key:'\\x00' range_end:'\\x00' revision:r7");
	DELETE("key:'b' range_end:'\\x00' prev_kv:1");
	DELETE("key:'\\x00' range_end:'\\x00' prev_kv:1");
}

static void sizes(struct conf *conf)
{
	PUT("key:'a'");
	RANGE("key:'a'");
	PUT("key:'a' value:'x'*1500000");
	RANGE("key:'a'");
	PUT("key:'a' value:'x'*1572864");
	PUT("key:'a' value:'x'*1662976");
	PUT("key:'a' value:'x'*2097152");
	DELETE("key:'x'*1600000");
	PUT("key:'x'*1600000");
	RANGE("key:'a' count_only:1");
	DELETE("key:'a'");
}

const struct scenario put_scenarios[] = {
	{"put/versions", versions, false},
	{"put/prev_kv", prev_kv, false},
	{"put/ignore_value_and_lease", ignore_value_and_lease, false},
	{"put/unknown_leases", unknown_leases, false},
	{"put/deletes", deletes, false},
	{"put/sizes", sizes, false},
	{NULL, NULL, false},
};
