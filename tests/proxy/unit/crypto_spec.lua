local crypto = require("dpproxy.base.crypto")
local jwt = require("dpproxy.plugin.jwt")
local vectors = require("jws_vectors")

local function bytes(hex)
    return (hex:gsub("%x%x", function(h) return string.char(tonumber(h, 16)) end))
end

describe("base.crypto", function()
    it("digests (FIPS 180, RFC 1321)", function()
        assert.equal("900150983cd24fb0d6963f7d28e17f72", crypto.hex(crypto.md5("abc")))
        assert.equal("a9993e364706816aba3e25717850c26c9cd0d89d", crypto.hex(crypto.sha1("abc")))
        assert.equal("ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad", crypto.hex(crypto.sha256("abc")))
        assert.equal("ddaf35a193617abacc417349ae20413112e6fa4e89a97ea20a9eeee64b55d39a"
            .. "2192992a274fc1a836ba3c23a3feebbd454d4423643ce80e2a9ac94fa54ca49f", crypto.hex(crypto.sha512("abc")))
        assert.equal("e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855", crypto.hex(crypto.sha256("")))
    end)
    it("authenticates (RFC 4231)", function()
        assert.equal("b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7",
            crypto.hex(crypto.hmac("sha256", ("\11"):rep(20), "Hi There")))
        assert.equal("5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843",
            crypto.hex(crypto.hmac("sha256", "Jefe", "what do ya want for nothing?")))
        assert.equal("164b7a7bfcf819e2e395fbe73b56e0a387bd64222e831fd610270cd7ea250554"
            .. "9758bf75c05a994a6d034f65f8f0e6fdcaeab1a34d4a6b4b636e070a38bce737",
            crypto.hex(crypto.hmac("sha512", "Jefe", "what do ya want for nothing?")))
    end)
    it("encrypts (NIST SP 800-38A, F.2.1)", function()
        local key, iv = bytes("2b7e151628aed2a6abf7158809cf4f3c"), bytes("000102030405060708090a0b0c0d0e0f")
        local cipher = crypto.aes_cbc_encrypt(key, iv, bytes("6bc1bee22e409f96e93d7e117393172a"))
        assert.equal("7649abac8119b246cee98e9b12e9197d", crypto.hex(cipher:sub(1, 16)))
        assert.equal("6bc1bee22e409f96e93d7e117393172a", crypto.hex(crypto.aes_cbc_decrypt(key, iv, cipher)))
    end)
    it("refuses wrong ciphertexts, keys and ivs", function()
        local key = "0123456789abcdef0123456789abcdef"
        local cipher = crypto.aes_cbc_encrypt(key, key, "text")
        assert.equal("text", crypto.aes_cbc_decrypt(key, key, cipher))
        assert.is_nil((crypto.aes_cbc_decrypt("0123456789abcdef", "0123456789abcdef", cipher)))
        assert.is_nil((crypto.aes_cbc_decrypt(key, key, "short")))
        assert.is_nil((crypto.aes_cbc_decrypt(key, key, "")))
        assert.is_nil((crypto.aes_cbc_decrypt("key", key, cipher)))
        assert.is_nil((crypto.aes_cbc_decrypt(key, "iv", cipher)))
    end)
    it("codes base64 (RFC 4648)", function()
        for text, coded in pairs({[""] = "", f = "Zg==", fo = "Zm8=", foo = "Zm9v", foobar = "Zm9vYmFy"}) do
            assert.equal(coded, crypto.encode_base64(text))
            assert.equal(text, crypto.decode_base64(coded))
            assert.equal(text, crypto.decode_base64url(crypto.encode_base64url(text)))
        end
        assert.equal("\251\255", crypto.decode_base64url("-_8"))
        for _, bad in ipairs({"Z", "Zm9v!", "Zm9v\n", "====", "Z=g="}) do
            assert.is_nil((crypto.decode_base64(bad)))
        end
        assert.is_nil((crypto.decode_base64url("+/8")))
    end)
    it("compares", function()
        assert.is_true(crypto.equal("abc", "abc"))
        assert.is_false(crypto.equal("abc", "abd"))
        assert.is_false(crypto.equal("abc", "ab"))
    end)
    it("leaves nothing in OpenSSL's queue, which nginx reads", function()
        local ffi = require("ffi")
        local C = ffi.load("libcrypto.so.3")
        crypto.aes_cbc_decrypt("0123456789abcdef", "0123456789abcdef", "garbagegarbage!!")
        crypto.public_key("-----BEGIN PUBLIC KEY-----\ngarbage\n-----END PUBLIC KEY-----\n")
        local key = crypto.public_key(vectors.ES256.key)
        crypto.jws_verify("ES256", key, ("x"):rep(64), "data")
        assert.equal(0, tonumber(C.ERR_get_error()))
    end)
    it("keeps its memory", function()
        local function resident()
            local file = assert(io.open("/proc/self/statm"))
            local pages = file:read("*a"):match("^%d+ (%d+)")
            file:close()
            return tonumber(pages) * 4096
        end
        local function work(rounds)
            for _ = 1, rounds do
                for _ = 1, 100 do
                    local key = crypto.public_key(vectors.ES256.key)
                    crypto.jws_verify("ES256", key, ("x"):rep(64), "data")
                    crypto.aes_cbc_decrypt("0123456789abcdef", "0123456789abcdef", "garbagegarbage!!")
                end
                collectgarbage()
                collectgarbage()
            end
        end
        work(10)
        local before = resident()
        work(30)
        assert.is_true(resident() - before < 2 * 1048576)
    end)
end)

describe("JSON web signatures", function()
    it("verify HS256 (RFC 7515, A.1)", function()
        local token = jwt.parse("eyJ0eXAiOiJKV1QiLA0KICJhbGciOiJIUzI1NiJ9"
            .. ".eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ"
            .. ".dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk")
        local secret = crypto.decode_base64url(
            "AyM1SysPpbyDfgZld3umj1qzKObwVMkoqQ-EstJQLr_T-1qS0gZH75aKtMN3Yj0iPS4hcgUuTwjAzZr1Z9CAow")
        assert.equal("joe", token.payload.iss)
        assert.is_true((jwt.verify(token, "HS256", secret)))
        assert.is_nil((jwt.verify(token, "HS256", secret .. "x")))
        assert.is_nil((jwt.verify(token, "HS384", secret)))
    end)
    for algorithm, vector in pairs(vectors) do
        it("verify " .. algorithm, function()
            local head, body, tail = vector.token:match("^(.-)%.(.-)%.(.*)$")
            local signed, signature = head .. "." .. body, crypto.decode_base64url(tail)
            local key = assert(crypto.public_key(vector.key))
            assert.is_true((crypto.jws_verify(algorithm, key, signature, signed)))
            assert.is_nil((crypto.jws_verify(algorithm, key, signature, signed .. "x")))
            local flipped = string.char((signature:byte(1) + 1) % 256) .. signature:sub(2)
            assert.is_nil((crypto.jws_verify(algorithm, key, flipped, signed)))
            assert.is_nil((crypto.jws_verify(algorithm, key, "", signed)))
            for other in pairs(vectors) do
                if other ~= algorithm then
                    assert.is_nil((crypto.jws_verify(other, key, signature, signed)))
                end
            end
            assert.is_nil((crypto.jws_verify("HS256", key, signature, signed)))
            assert.is_nil((crypto.jws_verify("none", key, "", signed)))
        end)
    end
    it("are refused when they are no tokens", function()
        for _, text in ipairs({"", "a", "a.b", "a.b.c.d", "e30.e30", "!.e30.", "e30.bm8.", "e30.W10", "bm8.e30.x"}) do
            assert.is_nil((jwt.parse(text)))
        end
        assert.is_nil((jwt.parse(("a"):rep(70000))))
        assert.is_nil((jwt.parse(crypto.encode_base64url('{"alg":"HS256","crit":["exp"]}') .. ".e30.eA")))
        assert.truthy((jwt.parse("e30.e30.")))
    end)
    it("have times", function()
        local function check(payload, required, grace)
            return (jwt.check_times(payload, required, 1000, grace or 0))
        end
        assert.is_true(check({}))
        assert.is_true(check({exp = 1001, nbf = 999}))
        assert.is_nil(check({exp = 1000}))
        assert.is_true(check({exp = 995}, nil, 10))
        assert.is_nil(check({nbf = 1000}))
        assert.is_true(check({nbf = 1005}, nil, 10))
        assert.is_nil(check({}, {"exp"}))
        assert.is_nil(check({exp = "1001"}))
        assert.is_nil(check({exp = 1001, nbf = 2000}, {"exp"}))
    end)
end)
