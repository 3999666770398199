#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# The gateway's Lua that needs no nginx: all specs of tests/proxy/unit, under LuaJIT, as TAP. An argument names single specs.
top=$(cd "${top_srcdir:-$(dirname "$0")/../..}" && pwd) || exit 99
luajit=$(command -v luajit) && command -v busted >/dev/null || {
	echo "Bail out! luajit and busted are needed (Debian: luajit2, lua-busted)"
	exit 99
}
cd "$top" || exit 99
LUA_PATH="$top/proxy/lua/?.lua;$top/proxy/lua/?/init.lua;$top/tests/proxy/lib/?.lua;/usr/share/lua/5.1/?.lua;/usr/share/lua/5.1/?/init.lua;;"
export LUA_PATH
exec busted --lua="$luajit" -o TAP --pattern=_spec --lazy "${@:-tests/proxy/unit}"
