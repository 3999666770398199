-- Signed tokens for tests of JWS. RS256, ES256 and EdDSA: RFC 7515 A.2, A.3 and RFC 8037 A.4; the others were signed with
-- Python's cryptography. Keys are public.
return {
    RS256 = {
        token = "eyJhbGciOiJSUzI1NiJ9.eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0c"
            .. "nVlfQ.cC4hiUPoj9Eetdgtv3hF80EGrhuB__dzERat0XF9g2VtQgr9PJbu3XOiZj5RZmh7AAuHIm4Bh-0Qc_lF5YKt_O8W2Fp5jujGbds9uJdb"
            .. "F9CUAr7t1dnZcAcQjbKBYNX4BAynRFdiuB--f_nZLgrnbyTyWzO75vRK5h6xBArLIARNPvkSjtQBMHlb1L07Qe7K0GarZRmB_eSN9383LcOLn6"
            .. "_dO--xi12jzDwusC-eOkHWEsqtFZESc6BfI7noOPqvhJ1phCnvWh6IeYI2w9QOYEUipUTI8np6LbgGY9Fs98rqVt5AXLIhWkWywlVmtVrBp0ig"
            .. "cN_IoypGlUPQGe77Rw",
        key = [[
-----BEGIN PUBLIC KEY-----
MIIBIjANBgkqhkiG9w0BAQEFAAOCAQ8AMIIBCgKCAQEAofgWCuLjybRlzo0tZWJj
NiuSfb4p4fAkd/wWJcyQoTbji9k0l8W26mPddxHmfHQp+Vaw+4qPCJrcS2mJPMEz
P1Pt0Bm4d4QlL+yRT+SFd2lZS+pCgNMsD1W/YpRPEwOWvG6b32690r2jZ47soMZo
9wGzjb/7OMg0LOL+bSf63kpaSHSXndS5z5rexMdbBYUsLA9e+KXBdQOS+UTo7WTB
EMa2R2CapHg665xsmtdVMTBQY4uDZlxvb3qCo5ZwKh9kG4LT6/I5IhlJH7aGhyxX
FvUK+DWNmoudF8NAco9/h9iaGNj8q2ethFkMLs91kzk2PAcDTW9gb54h4FRWyuXp
oQIDAQAB
-----END PUBLIC KEY-----
]],
    },
    ES256 = {
        token = "eyJhbGciOiJFUzI1NiJ9.eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0c"
            .. "nVlfQ.DtEhU3ljbEg8L38VWAfUAqOyKAM6-Xx-F4GawxaepmXFCgfTjDxw5djxLa8ISlSApmWQxfKTUJqPP3-Kg6NU1Q",
        key = [[
-----BEGIN PUBLIC KEY-----
MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEf83OJ3D2xF1Bg8vub9tLe1gHMzV7
6e8Tus9uPHvRVEXH8UTNG72bfocs3+257rn0s2ldbqkLJK2KRiMohYjlrQ==
-----END PUBLIC KEY-----
]],
    },
    EdDSA = {
        token = "eyJhbGciOiJFZERTQSJ9.RXhhbXBsZSBvZiBFZDI1NTE5IHNpZ25pbmc.hgyY0il_MGCjP0JzlnLWG1PPOt7-09PGcvMg3AIbQR6dWbhijcNR4"
            .. "ki4iylGjg5BhVsPt9g7sVvpAr_MuM0KAg",
        key = [[
-----BEGIN PUBLIC KEY-----
MCowBQYDK2VwAyEA11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=
-----END PUBLIC KEY-----
]],
    },
    RS384 = {
        token = "eyJhbGciOiJSUzM4NCIsInR5cCI6IkpXVCJ9.eyJrZXkiOiJrIn0.CBM7Xmt_zRfCm2PnmFDvE1HzuILTo_RzaQLF8eGoFJ7CUIv_54V_XZ86o"
            .. "WCKrP_8byUx8fSfDFIr2xSdEkyGxnJvpqZIDS4xn3kseDmSQZimQigtQJxMsNcGGU0GeAP0xImUgF3Pcik9WRFcoY0YsuOfIhwu9w8rVBw3n3T"
            .. "bzVC-sWgFx4IcfssKe2-q6Tjnt3qomfQCdU0AF6J0pL31cvP21C88Wvj8q5tq-F-QfTqbbQ0znose8YwULgBMMmCO_OujKgVituY0Y5DF3-wpG"
            .. "dzBiGDZYn_IF8sJy1_qwLzLwHdqSia779YdaTaizngvwWu2L133QtO4ctAAXU3Ohw",
        key = [[
-----BEGIN PUBLIC KEY-----
MIIBIjANBgkqhkiG9w0BAQEFAAOCAQ8AMIIBCgKCAQEAlUW7xtcAAY3q8MRwurVc
S4Y4urv6DHIxtPLyzqGXZ3YmpFKyMs4wPlxZDHX2eaKy0YfRNJpae1URTD53RRzk
pQjGlnYo5+T8cm1XkhUMS4scy/XyauL4w48UNL72vAjquvTtDsmRjXTO233XP1p+
D2DIFilxT4i8kEJO6ChlkW/4AF1fgMLR2JpJfGDzlBwC7iO5+v7ID5BImaF4aOuT
5yFETlcD8rSsXUBvnV+c1Ydi5FOQNwdCgmjkgCVYFnQS4qzm5nerADzXlr4jCbQH
poU236qrJNxJfGtfAiqDRMsy9q5wCEpvmseu1NSB5obf1OAQrxNJhmTehHukzvii
4QIDAQAB
-----END PUBLIC KEY-----
]],
    },
    RS512 = {
        token = "eyJhbGciOiJSUzUxMiIsInR5cCI6IkpXVCJ9.eyJrZXkiOiJrIn0.G9RjHVmqPA6E-2T9evopNl64rMnlrj_-qUq9JdLHQ0NmoidKkc9qvWXuF"
            .. "NMsFAqjfmOBjRh8nw4D1bWXdHjvbwxYfr0B2OuyNmJQSULNWpdwYczPlo18Qvd6pC1UFGdp1bW-obSJrGkj7Fm0ZHzDHI7SAFp6GQqf3XsI6KH"
            .. "ivwHH8oBRJNfI_fMFgY6AArfcoraQjJtfkzJRMlufQS10tN10EE1ScGStRZAoD03T9EGfznkxJ9ePwOnxx28-ythoqzlnU7cLaeSEcXbrFJWZE"
            .. "nyF4grFMQsS38CKUdWn3ssNKtTcXZna0U3idK-kIe3O38RqEl7mlAzCPdf9P-wjtA",
        key = [[
-----BEGIN PUBLIC KEY-----
MIIBIjANBgkqhkiG9w0BAQEFAAOCAQ8AMIIBCgKCAQEAlUW7xtcAAY3q8MRwurVc
S4Y4urv6DHIxtPLyzqGXZ3YmpFKyMs4wPlxZDHX2eaKy0YfRNJpae1URTD53RRzk
pQjGlnYo5+T8cm1XkhUMS4scy/XyauL4w48UNL72vAjquvTtDsmRjXTO233XP1p+
D2DIFilxT4i8kEJO6ChlkW/4AF1fgMLR2JpJfGDzlBwC7iO5+v7ID5BImaF4aOuT
5yFETlcD8rSsXUBvnV+c1Ydi5FOQNwdCgmjkgCVYFnQS4qzm5nerADzXlr4jCbQH
poU236qrJNxJfGtfAiqDRMsy9q5wCEpvmseu1NSB5obf1OAQrxNJhmTehHukzvii
4QIDAQAB
-----END PUBLIC KEY-----
]],
    },
    PS256 = {
        token = "eyJhbGciOiJQUzI1NiIsInR5cCI6IkpXVCJ9.eyJrZXkiOiJrIn0.IK5pBtf_SYgpxVYw_-7kZ3nzi5dW6pxb4ypm6GHicxc8-0cVE9dUu9klz"
            .. "pn5m36JTYScSp-pQIM0yqwnkB-vAzEcjvdlBD6WTBQhxGVIcMcS7d-zN4m7chrDMX-z9pSBrDMup80hXll6oF4ytKw7Wp8F0Ud4ecRLCTOOzrS"
            .. "V0bOwmnYHdTeVWwJYKMmIVgw_HzDUDD4bTtANbYxE4nMbt9zmmPW03jhPPZ3hQxcV6UQideJKzRUHsvD7cW2Vla2NHb6ye2qu44E0VslRoN8wk"
            .. "rsm8TQyE3400Pn4rk5xyaSK36LazJvL90hV4T53aS7ZGwuTon_KvoAVglwU38t_dQ",
        key = [[
-----BEGIN PUBLIC KEY-----
MIIBIjANBgkqhkiG9w0BAQEFAAOCAQ8AMIIBCgKCAQEAlUW7xtcAAY3q8MRwurVc
S4Y4urv6DHIxtPLyzqGXZ3YmpFKyMs4wPlxZDHX2eaKy0YfRNJpae1URTD53RRzk
pQjGlnYo5+T8cm1XkhUMS4scy/XyauL4w48UNL72vAjquvTtDsmRjXTO233XP1p+
D2DIFilxT4i8kEJO6ChlkW/4AF1fgMLR2JpJfGDzlBwC7iO5+v7ID5BImaF4aOuT
5yFETlcD8rSsXUBvnV+c1Ydi5FOQNwdCgmjkgCVYFnQS4qzm5nerADzXlr4jCbQH
poU236qrJNxJfGtfAiqDRMsy9q5wCEpvmseu1NSB5obf1OAQrxNJhmTehHukzvii
4QIDAQAB
-----END PUBLIC KEY-----
]],
    },
    PS384 = {
        token = "eyJhbGciOiJQUzM4NCIsInR5cCI6IkpXVCJ9.eyJrZXkiOiJrIn0.UYfk3ZSRTl2Ew6XrNAJD3CqLXJu1V4iaGYJFtskslBDFmLi5sYOksRyvf"
            .. "eaMk6A1sOpdktyGrR4TgQvWxUTCFuIZFMiq_C7WJMNoKHM7JhmsiKnWAYNK7i83OBehbplWnCkAK_uuyw799BznlxzNYEgmXbXP4ACVXM-EgVO"
            .. "X7Dlpk-njF1pha-cSl4gBJdzY64DXoU0wmRAUm8P3c0L6t3OI-sqE95owcGWzAYgB0TqG5hlpBUBC5WHFmYnx5bhRQnBRytjTRt8crmzZI1K00"
            .. "p1e3gzYetiX67_ebxaLGxrOEBhUp7C6eSfpZmMGANmeIyiu5zcPLGTL4sDwEVeQfg",
        key = [[
-----BEGIN PUBLIC KEY-----
MIIBIjANBgkqhkiG9w0BAQEFAAOCAQ8AMIIBCgKCAQEAlUW7xtcAAY3q8MRwurVc
S4Y4urv6DHIxtPLyzqGXZ3YmpFKyMs4wPlxZDHX2eaKy0YfRNJpae1URTD53RRzk
pQjGlnYo5+T8cm1XkhUMS4scy/XyauL4w48UNL72vAjquvTtDsmRjXTO233XP1p+
D2DIFilxT4i8kEJO6ChlkW/4AF1fgMLR2JpJfGDzlBwC7iO5+v7ID5BImaF4aOuT
5yFETlcD8rSsXUBvnV+c1Ydi5FOQNwdCgmjkgCVYFnQS4qzm5nerADzXlr4jCbQH
poU236qrJNxJfGtfAiqDRMsy9q5wCEpvmseu1NSB5obf1OAQrxNJhmTehHukzvii
4QIDAQAB
-----END PUBLIC KEY-----
]],
    },
    PS512 = {
        token = "eyJhbGciOiJQUzUxMiIsInR5cCI6IkpXVCJ9.eyJrZXkiOiJrIn0.JVTyHQpXAarwF0cI5FAABiEDzQLEoOPhHjJguauB1ufQzebD-UdJeNnES"
            .. "n9WjCvJVpQ_9FvINMTVeS0_KEdvDpWYq1OFzI6FnDhqwJz-87LpaLStkazOwfRKoS48fD2OCT3s9YlMvt2Y7WS5lBhX0heDC-TvsJhPpo7gAIJ"
            .. "dlhrG3AV1gzJHV8QbIRiUIxmgHXrZcYShBKFRKmLpPc64nGXn0E55ZhVGTA9g91iJs2ZlZ8rCQW-ei1MWDPpTAR81X_f1Dk_SP_DH5NuVkUx3F"
            .. "1nQI00vrSzyQQIhVeIrqKz_iNKTd-X0gddltR9a2hJEc-raC7WKVwe2icenGVUKYA",
        key = [[
-----BEGIN PUBLIC KEY-----
MIIBIjANBgkqhkiG9w0BAQEFAAOCAQ8AMIIBCgKCAQEAlUW7xtcAAY3q8MRwurVc
S4Y4urv6DHIxtPLyzqGXZ3YmpFKyMs4wPlxZDHX2eaKy0YfRNJpae1URTD53RRzk
pQjGlnYo5+T8cm1XkhUMS4scy/XyauL4w48UNL72vAjquvTtDsmRjXTO233XP1p+
D2DIFilxT4i8kEJO6ChlkW/4AF1fgMLR2JpJfGDzlBwC7iO5+v7ID5BImaF4aOuT
5yFETlcD8rSsXUBvnV+c1Ydi5FOQNwdCgmjkgCVYFnQS4qzm5nerADzXlr4jCbQH
poU236qrJNxJfGtfAiqDRMsy9q5wCEpvmseu1NSB5obf1OAQrxNJhmTehHukzvii
4QIDAQAB
-----END PUBLIC KEY-----
]],
    },
    ES384 = {
        token = "eyJhbGciOiJFUzM4NCIsInR5cCI6IkpXVCJ9.eyJrZXkiOiJrIn0.FLyswwFfQhfon6-x_qnAwZUVGs4sm83umRU--eNTqwZaLpHXT6WniybwE"
            .. "t48_NHlJwrf_iiLjT8vyV9TG6-P4xYSSvaO_BsuOjlY2yVIU5_nTos3d5WpCEZNNHmsJFIo",
        key = [[
-----BEGIN PUBLIC KEY-----
MHYwEAYHKoZIzj0CAQYFK4EEACIDYgAEmGNtPTWJeAyQH4Vlw6d3C5QV+jjZCvic
gAGaSSpJxvZOEayXahF4CSXa886TgbNAyJsDYvKftyh//hyxjR7AVYfcFaXnU5CF
qRZMaKF/UjE8zySlM+/68/8Vocz0kcpk
-----END PUBLIC KEY-----
]],
    },
    ES512 = {
        token = "eyJhbGciOiJFUzUxMiIsInR5cCI6IkpXVCJ9.eyJrZXkiOiJrIn0.AM2W-CS3cV7o7PhfjUsFYpECFXNcGq2vnvTVNv_KoOqIMDyk6ZGb5Ms-r"
            .. "G7wHd0kVmSh9jxX44r2jBo4ofMwsWnBAD4v7wE81TjFEGoouTIH6r8noh2nRYA51ogsiA_iP6nKEe5I7nZsQeSAxrqf0OuKp8DYjE0x9FHPVQ2"
            .. "45L1iA9FI",
        key = [[
-----BEGIN PUBLIC KEY-----
MIGbMBAGByqGSM49AgEGBSuBBAAjA4GGAAQAQ/tLIl3kzrJpmlgfgDPZiFFG2Bwq
zmJ2mcJzkMHmjUZhi1KRY/ruIlN/4wTTQNPFSOgv1DGXqp9Zzgtsr3gGnJsBX9AP
yqXc3y1GYX2zXzueYghLMn2Kz6jXdYY8a82/fNE6Rve6ePVr6BKOd3YDcg2Hquur
jGwS0ayVErpCDQA1JuY=
-----END PUBLIC KEY-----
]],
    },
}
