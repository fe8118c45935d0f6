/* SPDX-License-Identifier: Apache-2.0 */
#include "control_parse.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <json-c/json.h>

#include "settings.h"

#define DEPTH 4

#define OP_NAMES "status, ps, get, set, unmerge, off, explain, domains, process, reclaim, merge or self"

static const char *const op_name[SP_OPS] = {
    [SP_OP_STATUS] = "status",   [SP_OP_PS] = "ps",           [SP_OP_GET] = "get",
    [SP_OP_SET] = "set",         [SP_OP_UNMERGE] = "unmerge", [SP_OP_OFF] = "off",
    [SP_OP_EXPLAIN] = "explain", [SP_OP_DOMAINS] = "domains", [SP_OP_PROCESS] = "process",
    [SP_OP_MERGE] = "merge",     [SP_OP_SELF] = "self",       [SP_OP_RECLAIM] = "reclaim",
};

/* Which keys a request may have beside op and uid. */
static const char *const op_keys[SP_OPS][4] = {
    [SP_OP_GET] = {"key", "domain"}, [SP_OP_SET] = {"key", "value", "domain"},
    [SP_OP_UNMERGE] = {"pid"},       [SP_OP_EXPLAIN] = {"pid"},
    [SP_OP_PROCESS] = {"pid"},       [SP_OP_RECLAIM] = {"bytes", "domain", "look"},
};

struct parse {
    char *error;
    size_t error_size;
};

static int __attribute__((format(printf, 2, 3))) wrong(const struct parse *p, const char *format,
                                                       ...)
{
    va_list args;

    va_start(args, format);
    vsnprintf(p->error, p->error_size, format, args);
    va_end(args);
    return 2;
}

bool sp_parse_number(const char *text, uint64_t max, uint64_t *out)
{
    uint64_t value = 0;

    if (!*text)
        return false;
    for (; *text; text++) {
        uint64_t digit = (uint64_t)(*text - '0');

        if (*text < '0' || *text > '9' || value > (UINT64_MAX - digit) / 10)
            return false;
        value = value * 10 + digit;
    }
    *out = value;
    return value <= max;
}

static struct json_object *parse_json(const void *data, size_t size)
{
    struct json_tokener *tokener = json_tokener_new_ex(DEPTH);
    struct json_object *root = NULL;

    if (!tokener)
        return NULL;
    json_tokener_set_flags(tokener, JSON_TOKENER_STRICT | JSON_TOKENER_VALIDATE_UTF8);
    root = json_tokener_parse_ex(tokener, data, (int)size);
    if (json_tokener_get_error(tokener) != json_tokener_success ||
        json_tokener_get_parse_end(tokener) != size || !json_object_is_type(root, json_type_object)) {
        json_object_put(root);
        root = NULL;
    }
    json_tokener_free(tokener);
    return root;
}

/* The string under key, or NULL if there is none of that type, or one with a 0 in it. */
static const char *string_of(struct json_object *root, const char *key)
{
    struct json_object *value;
    const char *text;

    if (!json_object_object_get_ex(root, key, &value) ||
        !json_object_is_type(value, json_type_string))
        return NULL;
    text = json_object_get_string(value);
    return strlen(text) == (size_t)json_object_get_string_len(value) ? text : NULL;
}

static int parse_op(const struct parse *p, struct json_object *root, struct sp_request *out)
{
    const char *op = string_of(root, "op");

    if (!op)
        return wrong(p, "the request has no \"op\": use " OP_NAMES);
    for (unsigned i = 0; i < sizeof(op_name) / sizeof(op_name[0]); i++) {
        if (!strcmp(op, op_name[i])) {
            out->op = (enum sp_request_op)i;
            return 0;
        }
    }
    return wrong(p, "unknown op \"%.32s\": use " OP_NAMES, op);
}

static bool key_known(enum sp_request_op op, const char *key)
{
    if (!strcmp(key, "op") || !strcmp(key, "uid"))
        return true;
    for (unsigned i = 0; op_keys[op][i]; i++) {
        if (!strcmp(key, op_keys[op][i]))
            return true;
    }
    return false;
}

static int check_keys(const struct parse *p, struct json_object *root, enum sp_request_op op)
{
    struct json_object_iterator at = json_object_iter_begin(root);
    struct json_object_iterator end = json_object_iter_end(root);

    for (; !json_object_iter_equal(&at, &end); json_object_iter_next(&at)) {
        const char *key = json_object_iter_peek_name(&at);

        if (!key_known(op, key))
            return wrong(p, "\"%.32s\" means nothing in a request \"%s\": leave it out", key,
                         op_name[op]);
    }
    return 0;
}

static int parse_key(const struct parse *p, struct json_object *root, struct sp_request *out)
{
    const char *key = string_of(root, "key");

    if (!key || !*key)
        return wrong(p, "\"key\" is missing or not a string: name a setting or a counter");
    if (strlen(key) >= sizeof(out->key)) {
        out->error = -ENOENT;
        return wrong(p, "unknown key \"%.32s...\": \"samepage status --json\" shows all", key);
    }
    memcpy(out->key, key, strlen(key) + 1);
    return 0;
}

static int parse_value(const struct parse *p, struct json_object *root, struct sp_request *out)
{
    const struct sp_setting *setting = sp_setting_find(out->key);
    const char *value = string_of(root, "value");
    char bounds[80];

    if (!setting) {
        out->error = sp_key_find(out->key) ? -EACCES : -ENOENT;
        return wrong(p, "\"%s\" is not a setting: use " SP_SETTING_NAMES, out->key);
    }
    out->error = value ? sp_setting_read_as_kernel(setting, value, &out->value) : -EINVAL;
    if (!out->error)
        return 0;
    sp_setting_bounds(setting, bounds, sizeof(bounds));
    return wrong(p, "%s must be %s, as a string", setting->key, bounds);
}

static int parse_domain(const struct parse *p, struct json_object *root, struct sp_request *out)
{
    const char *name = string_of(root, "domain");

    if (!json_object_object_get_ex(root, "domain", NULL))
        return 0;
    if (!name || !*name || strlen(name) >= sizeof(out->domain)) {
        out->error = name && *name ? -ENOENT : -EINVAL;
        return wrong(p, "\"domain\" is not the name of one: \"samepage ps\" shows them");
    }
    memcpy(out->domain, name, strlen(name) + 1);
    return 0;
}

static int parse_pid(const struct parse *p, struct json_object *root, struct sp_request *out)
{
    struct json_object *value;
    int64_t pid;

    if (!json_object_object_get_ex(root, "pid", &value))
        return 0;
    pid = json_object_is_type(value, json_type_int) ? json_object_get_int64(value) : 0;
    if (pid < 1 || pid > INT32_MAX)
        return wrong(p, "\"pid\" must be a process id, a number from 1 to %d", INT32_MAX);
    out->has_pid = true;
    out->pid = (pid_t)pid;
    return 0;
}

static int parse_bytes(const struct parse *p, struct json_object *root, struct sp_request *out)
{
    struct json_object *value;
    int64_t bytes = 0;

    if (json_object_object_get_ex(root, "bytes", &value) && json_object_is_type(value, json_type_int))
        bytes = json_object_get_int64(value);
    if (bytes < 1)
        return wrong(p, "\"bytes\" must say how much, a number from 1 on");
    out->bytes = (uint64_t)bytes;
    if (!json_object_object_get_ex(root, "look", &value))
        return 0;
    if (!json_object_is_type(value, json_type_boolean))
        return wrong(p, "\"look\" must be true or false");
    out->look = json_object_get_boolean(value);
    return 0;
}

/* -1 is no user: system calls take it for "leave as it is". */
static int parse_uid(const struct parse *p, struct json_object *root, struct sp_request *out)
{
    struct json_object *value;
    int64_t uid;

    if (!json_object_object_get_ex(root, "uid", &value))
        return 0;
    uid = json_object_is_type(value, json_type_int) ? json_object_get_int64(value) : -1;
    if (uid < 0 || uid >= UINT32_MAX)
        return wrong(p, "\"uid\" must be a user id, a number from 0 to %u", UINT32_MAX - 1);
    out->has_uid = true;
    out->uid = (uid_t)uid;
    return 0;
}

int sp_control_parse(const void *data, size_t size, struct sp_request *out, char *error,
                     size_t error_size)
{
    const struct parse p = {error, error_size};
    struct json_object *root;
    int ret;

    memset(out, 0, sizeof(*out));
    out->error = -EINVAL;
    if (size > SP_REQUEST_MAX)
        return wrong(&p, "the request is longer than %u bytes", SP_REQUEST_MAX);
    root = parse_json(data, size);
    if (!root)
        return wrong(&p, "the request is not one JSON object");
    out->error = 0;
    ret = parse_op(&p, root, out);
    if (!ret)
        ret = check_keys(&p, root, out->op);
    if (!ret)
        ret = parse_uid(&p, root, out);
    if (!ret && (out->op == SP_OP_GET || out->op == SP_OP_SET))
        ret = parse_key(&p, root, out);
    if (!ret && out->op == SP_OP_SET)
        ret = parse_value(&p, root, out);
    if (!ret && key_known(out->op, "domain"))
        ret = parse_domain(&p, root, out);
    if (!ret && out->op == SP_OP_RECLAIM)
        ret = parse_bytes(&p, root, out);
    if (!ret && key_known(out->op, "pid"))
        ret = parse_pid(&p, root, out);
    if (!ret && out->op == SP_OP_EXPLAIN && !out->has_pid)
        ret = wrong(&p, "\"pid\" is missing: name the process");
    if (ret && !out->error)
        out->error = -EINVAL;
    json_object_put(root);
    return ret;
}
