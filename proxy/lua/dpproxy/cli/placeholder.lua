-- The pair that nginx wants for a listener with TLS. It is made at the first start and never served: handshakes take their
-- certificate from the configuration (dpproxy.tls) or end.
local ffi = require("ffi")

ffi.cdef([[
typedef struct evp_pkey_st EVP_PKEY;
typedef struct x509_st X509;
typedef struct bio_st BIO;
EVP_PKEY *EVP_PKEY_Q_keygen(void *libctx, const char *propq, const char *type, ...);
void EVP_PKEY_free(EVP_PKEY *);
X509 *X509_new(void);
void X509_free(X509 *);
void *X509_gmtime_adj(void *, long);
void *X509_getm_notBefore(const X509 *);
void *X509_getm_notAfter(const X509 *);
int X509_set_pubkey(X509 *, EVP_PKEY *);
int X509_sign(X509 *, EVP_PKEY *, const void *md);
void *X509_get_subject_name(const X509 *);
int X509_set_issuer_name(X509 *, const void *);
int X509_NAME_add_entry_by_txt(void *, const char *, int, const unsigned char *, int, int, int);
const void *EVP_sha256(void);
BIO *BIO_new(const void *);
const void *BIO_s_mem(void);
int BIO_free(BIO *);
int BIO_read(BIO *, void *, int);
int PEM_write_bio_X509(BIO *, X509 *);
int PEM_write_bio_PrivateKey(BIO *, EVP_PKEY *, const void *, unsigned char *, int, void *, void *);
]])

local M = {}

local function text_of(crypto, bio)
    local buffer, parts = ffi.new("char[4096]"), {}
    while true do
        local n = crypto.BIO_read(bio, buffer, 4096)
        if n <= 0 then
            return table.concat(parts)
        end
        parts[#parts + 1] = ffi.string(buffer, n)
    end
end

local function build(crypto, key, cert)
    local name = crypto.X509_get_subject_name(cert)
    crypto.X509_NAME_add_entry_by_txt(name, "CN", 0x1001, "dpproxy.invalid", -1, -1, 0)
    crypto.X509_set_issuer_name(cert, name)
    crypto.X509_gmtime_adj(crypto.X509_getm_notBefore(cert), -86400)
    crypto.X509_gmtime_adj(crypto.X509_getm_notAfter(cert), 3650 * 86400)
    if crypto.X509_set_pubkey(cert, key) ~= 1 or crypto.X509_sign(cert, key, crypto.EVP_sha256()) == 0 then
        return nil, "a certificate cannot be made"
    end
    local bio = ffi.gc(crypto.BIO_new(crypto.BIO_s_mem()), crypto.BIO_free)
    crypto.PEM_write_bio_X509(bio, cert)
    local cert_text = text_of(crypto, bio)
    crypto.PEM_write_bio_PrivateKey(bio, key, nil, nil, 0, nil, nil)
    return cert_text, text_of(crypto, bio)
end

-- -> certificate, key (PEM) | nil, err
function M.make()
    local ok, crypto = pcall(ffi.load, "libcrypto.so.3")
    if not ok then
        return nil, crypto
    end
    local key = crypto.EVP_PKEY_Q_keygen(nil, nil, "EC", ffi.cast("const char *", "P-256"))
    if key == nil then
        return nil, "a key cannot be made"
    end
    return build(crypto, ffi.gc(key, crypto.EVP_PKEY_free), ffi.gc(crypto.X509_new(), crypto.X509_free))
end

return M
