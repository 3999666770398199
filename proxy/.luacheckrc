std = "ngx_lua"
max_line_length = 130
unused_args = false
files["../tests/proxy"] = {std = "+busted"}
