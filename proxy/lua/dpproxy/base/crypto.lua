-- OpenSSL's libcrypto: digests, HMAC, AES-CBC, random bytes, signatures of JSON web tokens, base64, comparison in constant time.
-- Bytes are Lua strings. Failures are nil, err; OpenSSL's own error queue is emptied then, because nginx reads the same queue.
local ffi = require("ffi")

ffi.cdef([[
struct evp_md_st; struct evp_md_ctx_st; struct evp_pkey_st; struct evp_pkey_ctx_st; struct evp_cipher_st;
struct evp_cipher_ctx_st; struct engine_st; struct bio_st; struct x509_st; struct bignum_st; struct ECDSA_SIG_st;

unsigned long ERR_get_error(void);
void ERR_clear_error(void);
void ERR_error_string_n(unsigned long e, char *buf, size_t len);

const struct evp_md_st *EVP_md5(void);
const struct evp_md_st *EVP_sha1(void);
const struct evp_md_st *EVP_sha256(void);
const struct evp_md_st *EVP_sha384(void);
const struct evp_md_st *EVP_sha512(void);
int EVP_Digest(const void *data, size_t count, unsigned char *md, unsigned int *size, const struct evp_md_st *type,
    struct engine_st *impl);
unsigned char *HMAC(const struct evp_md_st *evp_md, const void *key, int key_len, const unsigned char *d, size_t n,
    unsigned char *md, unsigned int *md_len);
int CRYPTO_memcmp(const void *a, const void *b, size_t len);
int RAND_bytes(unsigned char *buf, int num);
int EVP_EncodeBlock(unsigned char *t, const unsigned char *f, int n);
int EVP_DecodeBlock(unsigned char *t, const unsigned char *f, int n);

struct evp_cipher_ctx_st *EVP_CIPHER_CTX_new(void);
int EVP_CIPHER_CTX_reset(struct evp_cipher_ctx_st *ctx);
const struct evp_cipher_st *EVP_aes_128_cbc(void);
const struct evp_cipher_st *EVP_aes_256_cbc(void);
int EVP_CipherInit_ex(struct evp_cipher_ctx_st *ctx, const struct evp_cipher_st *cipher, struct engine_st *impl,
    const unsigned char *key, const unsigned char *iv, int enc);
int EVP_CipherUpdate(struct evp_cipher_ctx_st *ctx, unsigned char *out, int *outl, const unsigned char *in, int inl);
int EVP_CipherFinal_ex(struct evp_cipher_ctx_st *ctx, unsigned char *outm, int *outl);

struct bio_st *BIO_new_mem_buf(const void *buf, int len);
int BIO_free(struct bio_st *a);
struct evp_pkey_st *PEM_read_bio_PUBKEY(struct bio_st *bp, struct evp_pkey_st **x, void *cb, void *u);
struct x509_st *PEM_read_bio_X509(struct bio_st *bp, struct x509_st **x, void *cb, void *u);
struct evp_pkey_st *X509_get_pubkey(struct x509_st *x);
void X509_free(struct x509_st *a);
void EVP_PKEY_free(struct evp_pkey_st *pkey);
int EVP_PKEY_get_base_id(const struct evp_pkey_st *pkey);
int EVP_PKEY_get_bits(const struct evp_pkey_st *pkey);

struct evp_md_ctx_st *EVP_MD_CTX_new(void);
int EVP_MD_CTX_reset(struct evp_md_ctx_st *ctx);
int EVP_DigestVerifyInit(struct evp_md_ctx_st *ctx, struct evp_pkey_ctx_st **pctx, const struct evp_md_st *type,
    struct engine_st *e, struct evp_pkey_st *pkey);
int EVP_DigestVerify(struct evp_md_ctx_st *ctx, const unsigned char *sig, size_t siglen, const unsigned char *tbs, size_t tbslen);
int EVP_PKEY_CTX_set_rsa_padding(struct evp_pkey_ctx_st *ctx, int pad_mode);
int EVP_PKEY_CTX_set_rsa_pss_saltlen(struct evp_pkey_ctx_st *ctx, int saltlen);

struct bignum_st *BN_bin2bn(const unsigned char *s, int len, struct bignum_st *ret);
void BN_free(struct bignum_st *a);
struct ECDSA_SIG_st *ECDSA_SIG_new(void);
void ECDSA_SIG_free(struct ECDSA_SIG_st *sig);
int ECDSA_SIG_set0(struct ECDSA_SIG_st *sig, struct bignum_st *r, struct bignum_st *s);
int i2d_ECDSA_SIG(const struct ECDSA_SIG_st *sig, unsigned char **pp);
]])

local C = ffi.load("libcrypto.so.3")

local ffi_new, ffi_string, ffi_gc = ffi.new, ffi.string, ffi.gc
local type, error = type, error
local str_find, str_gsub, str_sub, str_byte, str_format = string.find, string.gsub, string.sub, string.byte, string.format

local M = {}

-- Filled and turned into a string without a yield in between.
local digest_buf = ffi_new("unsigned char[64]")
local digest_len = ffi_new("unsigned int[1]")
-- One of each, reset after use: what OpenSSL allocates is invisible to Lua's collector, which would come too late.
local cipher_ctx = C.EVP_CIPHER_CTX_new()
local md_ctx = C.EVP_MD_CTX_new()
if cipher_ctx == nil or md_ctx == nil then
    error("out of memory")
end
local err_buf = ffi_new("char[256]")

-- what -> nil, "what: OpenSSL's reason"
local function failure(what)
    local code = C.ERR_get_error()
    C.ERR_clear_error()
    if code == 0 then
        return nil, what
    end
    C.ERR_error_string_n(code, err_buf, 256)
    return nil, what .. ": " .. ffi_string(err_buf)
end

local digests = {
    md5 = C.EVP_md5(),
    sha1 = C.EVP_sha1(),
    sha256 = C.EVP_sha256(),
    sha384 = C.EVP_sha384(),
    sha512 = C.EVP_sha512(),
}

local function digest_of(name)
    local md = digests[name]
    if not md then
        error("no such digest: " .. tostring(name), 3)
    end
    return md
end

function M.digest(name, data)
    if C.EVP_Digest(data, #data, digest_buf, digest_len, digest_of(name), nil) ~= 1 then
        return failure("digest")
    end
    return ffi_string(digest_buf, digest_len[0])
end

function M.md5(data)
    return M.digest("md5", data)
end

function M.sha1(data)
    return M.digest("sha1", data)
end

function M.sha256(data)
    return M.digest("sha256", data)
end

function M.sha512(data)
    return M.digest("sha512", data)
end

function M.hmac(name, key, data)
    if C.HMAC(digest_of(name), key, #key, data, #data, digest_buf, digest_len) == nil then
        return failure("hmac")
    end
    return ffi_string(digest_buf, digest_len[0])
end

-- Takes as long for a wrong first byte as for a wrong last one. Lengths are no secret.
function M.equal(a, b)
    return #a == #b and C.CRYPTO_memcmp(a, b, #a) == 0
end

-- Throws when there is no randomness: nothing good can be done then.
function M.random_bytes(n)
    local buf = ffi_new("unsigned char[?]", n)
    if C.RAND_bytes(buf, n) ~= 1 then
        local _, err = failure("random bytes")
        error(err)
    end
    return ffi_string(buf, n)
end

local function hex_of(c)
    return str_format("%02x", str_byte(c))
end

function M.hex(bytes)
    return (str_gsub(bytes, ".", hex_of))
end

function M.encode_base64(bytes)
    local buf = ffi_new("unsigned char[?]", (#bytes + 2) / 3 * 4 + 1)
    local n = C.EVP_EncodeBlock(buf, bytes, #bytes)
    return ffi_string(buf, n)
end

-- -> bytes | nil, err. Padding may be missing; nothing else may be wrong.
function M.decode_base64(text)
    if type(text) ~= "string" then
        return nil, "not base64"
    end
    local body = str_gsub(text, "=?=?$", "")
    local rest = #body % 4
    if rest == 1 or str_find(body, "[^%w+/]") then
        return nil, "not base64"
    end
    local missing = (4 - rest) % 4
    local padded = missing == 0 and body or body .. str_sub("AA", 1, missing)
    local buf = ffi_new("unsigned char[?]", #padded / 4 * 3 + 1)
    local n = C.EVP_DecodeBlock(buf, padded, #padded)
    if n < 0 then
        C.ERR_clear_error()
        return nil, "not base64"
    end
    return ffi_string(buf, n - missing)
end

local to_url = {["+"] = "-", ["/"] = "_", ["="] = ""}
local from_url = {["-"] = "+", ["_"] = "/"}

function M.encode_base64url(bytes)
    return (str_gsub(M.encode_base64(bytes), "[+/=]", to_url))
end

function M.decode_base64url(text)
    if type(text) ~= "string" or str_find(text, "[+/]") then
        return nil, "not base64url"
    end
    return M.decode_base64((str_gsub(text, "[-_]", from_url)))
end

local ciphers = {[16] = C.EVP_aes_128_cbc(), [32] = C.EVP_aes_256_cbc()}

local function aes_cbc(key, iv, data, encrypt)
    local cipher = ciphers[#key]
    if not cipher then
        return nil, "a key must have 16 or 32 bytes"
    end
    if #iv < 16 then
        return nil, "an initial vector must have 16 bytes"
    end
    local out = ffi_new("unsigned char[?]", #data + 32)
    local len = ffi_new("int[1]")
    local n = 0
    local ok = C.EVP_CipherInit_ex(cipher_ctx, cipher, nil, key, iv, encrypt) == 1
        and C.EVP_CipherUpdate(cipher_ctx, out, len, data, #data) == 1
    if ok then
        n = len[0]
        ok = C.EVP_CipherFinal_ex(cipher_ctx, out + n, len) == 1
    end
    C.EVP_CIPHER_CTX_reset(cipher_ctx) -- forgets the key
    if not ok then
        return failure("aes")
    end
    return ffi_string(out, n + len[0])
end

-- PKCS#7 padding; the cipher follows from the key's length, and only 16 bytes of the iv are used.
function M.aes_cbc_encrypt(key, iv, data)
    return aes_cbc(key, iv, data, 1)
end

function M.aes_cbc_decrypt(key, iv, data)
    return aes_cbc(key, iv, data, 0)
end

local function read_key(bio, is_certificate)
    if not is_certificate then
        return C.PEM_read_bio_PUBKEY(bio, nil, nil, nil)
    end
    local cert = C.PEM_read_bio_X509(bio, nil, nil, nil)
    if cert == nil then
        return nil
    end
    local key = C.X509_get_pubkey(cert)
    C.X509_free(cert)
    return key
end

-- PEM text of a public key or a certificate -> key, freed by the collector | nil, err
function M.public_key(pem)
    local bio = C.BIO_new_mem_buf(pem, #pem)
    if bio == nil then
        return failure("public key")
    end
    local key = read_key(bio, str_find(pem, "BEGIN CERTIFICATE", 1, true) ~= nil)
    C.BIO_free(bio)
    if key == nil then
        return failure("public key")
    end
    return ffi_gc(key, C.EVP_PKEY_free)
end

local NID_RSA, NID_EC, NID_ED25519, NID_ED448 = 6, 408, 1087, 1088
local RSA_PKCS1_PSS_PADDING, RSA_PSS_SALTLEN_DIGEST = 6, -1

-- JOSE's names. coordinate: bytes of r and of s; bits: the curve's.
local algorithms = {
    HS256 = {hmac = "sha256"},
    HS384 = {hmac = "sha384"},
    HS512 = {hmac = "sha512"},
    RS256 = {type = NID_RSA, md = "sha256"},
    RS384 = {type = NID_RSA, md = "sha384"},
    RS512 = {type = NID_RSA, md = "sha512"},
    PS256 = {type = NID_RSA, md = "sha256", pss = true},
    PS384 = {type = NID_RSA, md = "sha384", pss = true},
    PS512 = {type = NID_RSA, md = "sha512", pss = true},
    ES256 = {type = NID_EC, md = "sha256", coordinate = 32, bits = 256},
    ES384 = {type = NID_EC, md = "sha384", coordinate = 48, bits = 384},
    ES512 = {type = NID_EC, md = "sha512", coordinate = 66, bits = 521},
    EdDSA = {type = NID_ED25519, type2 = NID_ED448},
}
M.jws_algorithms = algorithms

-- JOSE writes r and s one after the other; OpenSSL wants the DER of both.
local function ecdsa_der(signature, coordinate)
    if #signature ~= 2 * coordinate then
        return nil, "wrong length of the signature"
    end
    local r = C.BN_bin2bn(str_sub(signature, 1, coordinate), coordinate, nil)
    local s = C.BN_bin2bn(str_sub(signature, coordinate + 1), coordinate, nil)
    local sig = C.ECDSA_SIG_new()
    if r == nil or s == nil or sig == nil or C.ECDSA_SIG_set0(sig, r, s) ~= 1 then
        C.BN_free(r)
        C.BN_free(s)
        C.ECDSA_SIG_free(sig)
        return failure("signature")
    end
    -- r and s are the signature's now
    local buf = ffi_new("unsigned char[?]", 2 * coordinate + 16)
    local n = C.i2d_ECDSA_SIG(sig, ffi_new("unsigned char *[1]", buf))
    C.ECDSA_SIG_free(sig)
    if n <= 0 then
        return failure("signature")
    end
    return ffi_string(buf, n)
end

local pkey_ctx = ffi_new("struct evp_pkey_ctx_st *[1]") -- belongs to md_ctx

local function digest_verify(alg, key, signature, data)
    if C.EVP_DigestVerifyInit(md_ctx, pkey_ctx, alg.md and digests[alg.md] or nil, nil, key) ~= 1 then
        return failure("verify")
    end
    if alg.pss and (C.EVP_PKEY_CTX_set_rsa_padding(pkey_ctx[0], RSA_PKCS1_PSS_PADDING) <= 0
            or C.EVP_PKEY_CTX_set_rsa_pss_saltlen(pkey_ctx[0], RSA_PSS_SALTLEN_DIGEST) <= 0) then
        return failure("verify")
    end
    if C.EVP_DigestVerify(md_ctx, signature, #signature, data, #data) ~= 1 then
        C.ERR_clear_error()
        return nil, "signature mismatch"
    end
    return true
end

local function verify_with_key(alg, key, signature, data)
    local kind = C.EVP_PKEY_get_base_id(key)
    if kind ~= alg.type and kind ~= alg.type2 or alg.bits and C.EVP_PKEY_get_bits(key) ~= alg.bits then
        return nil, "the key is not of the algorithm's kind"
    end
    if alg.coordinate then
        local err
        signature, err = ecdsa_der(signature, alg.coordinate)
        if not signature then
            return nil, err
        end
    end
    local ok, err = digest_verify(alg, key, signature, data)
    C.EVP_MD_CTX_reset(md_ctx)
    return ok, err
end

-- Is this the signature of data by JOSE's algorithm `name`? key: a secret for HS*, what public_key() gave for the others.
-- -> true | nil, err
function M.jws_verify(name, key, signature, data)
    local alg = algorithms[name]
    if not alg then
        return nil, "unknown algorithm"
    end
    if not alg.hmac then
        if type(key) ~= "cdata" then
            return nil, "a public key is needed"
        end
        return verify_with_key(alg, key, signature, data)
    end
    if type(key) ~= "string" then
        return nil, "a secret is needed"
    end
    local expected, err = M.hmac(alg.hmac, key, data)
    if not expected then
        return nil, err
    end
    if not M.equal(expected, signature) then
        return nil, "signature mismatch"
    end
    return true
end

return M
