// A scaling policy in C: the members that use least memory leave first, if they have
// lived for a while. It knows the contract (wit/0.2) and nothing else: no SDK, no libc.
//
//     scaling:
//       plugin: least-memory.wasm
//       config: { minAgeHours: 24 }   # who is younger stays; default 0
//
// What a member is made of is in the generated scaling_policy.h, documented in wit/0.2.

#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "scaling_policy.h"

typedef scaling_policy_string_t text;
typedef exports_vmgroup_policy_scaling_request_t request;
typedef exports_vmgroup_policy_scaling_member_t member;

// --- text ----------------------------------------------------------------------------

static text literal(const char *from) {
    return (text){.ptr = (uint8_t *)from, .len = strlen(from)};
}

// A text in the making. Nothing is freed: each question has a sandbox of its own.
struct line {
    uint8_t *at;
    size_t length, room;
};

static void add(struct line *line, text more) {
    if (line->length + more.len > line->room) {
        line->room = 2 * (line->length + more.len);
        line->at = realloc(line->at, line->room);
    }
    memcpy(line->at + line->length, more.ptr, more.len);
    line->length += more.len;
}

static void add_number(struct line *line, uint64_t number) {
    uint8_t digits[20];
    size_t first = sizeof digits;
    do {
        digits[--first] = '0' + number % 10;
        number /= 10;
    } while (number);
    add(line, (text){.ptr = digits + first, .len = sizeof digits - first});
}

static text done(struct line line) {
    return (text){.ptr = line.at, .len = line.length};
}

// Negative, zero or positive, by bytes.
static int compare(text a, text b) {
    int order = memcmp(a.ptr, b.ptr, a.len < b.len ? a.len : b.len);
    return order ? order : (a.len > b.len) - (a.len < b.len);
}

// --- the configuration ---------------------------------------------------------------

// The host has held it against the schema below before anything is asked: an object,
// with nothing but `minAgeHours`, a number without a sign.
static uint64_t min_age_hours(text config) {
    uint64_t hours = 0;
    size_t at = 0;
    while (at < config.len && config.ptr[at] != ':') at++;
    for (; at < config.len; at++) {
        uint8_t digit = config.ptr[at] - '0';
        if (digit <= 9) hours = 10 * hours + digit;
    }
    return hours;
}

static const char SCHEMA[] =
    "{\"type\":\"object\",\"properties\":{\"minAgeHours\":{\"type\":\"integer\",\"minimum\":0,\"maximum\":876000,"
    "\"description\":\"Who is younger stays.\"}},\"additionalProperties\":false}";

void exports_vmgroup_policy_lifecycle_describe(exports_vmgroup_policy_lifecycle_description_t *description) {
    static exports_vmgroup_policy_lifecycle_attribute_t facts[2];
    facts[0].key = literal("license");
    facts[0].value = literal("Apache-2.0");
    facts[1].key = literal("order-free");
    facts[1].value = literal("scaling");
    description->name = literal("least-memory");
    description->version = literal("1.0.0");
    description->summary = literal("The members that use least memory leave first.");
    description->config_schema.is_some = true;
    description->config_schema.val = literal(SCHEMA);
    description->attributes.ptr = facts;
    description->attributes.len = 2;
}

bool exports_vmgroup_policy_lifecycle_validate_config(exports_vmgroup_policy_lifecycle_kind_t kind,
                                                      text *config,
                                                      exports_vmgroup_policy_lifecycle_list_problem_t *problems) {
    static exports_vmgroup_policy_lifecycle_problem_t problem;
    (void)config; // The schema says it all.
    if (kind == EXPORTS_VMGROUP_POLICY_LIFECYCLE_KIND_SCALING) return true;
    problem.path = literal("");
    problem.message = literal("this policy only answers scaling");
    problems->ptr = &problem;
    problems->len = 1;
    return false;
}

// --- the decision --------------------------------------------------------------------

// Less than nothing: what does not run. More than anything: what nobody knows.
static int64_t use(const member *one) {
    if (one->power == VMGROUP_POLICY_TYPES_POWER_STATE_POWERED_OFF) return -1;
    return one->memory_used_mib.is_some ? (int64_t)one->memory_used_mib.val : INT64_MAX;
}

static bool leaves_before(const member *a, const member *b) {
    if (use(a) != use(b)) return use(a) < use(b);
    return compare(a->name, b->name) < 0;
}

static bool may_leave(const member *one, uint64_t now, uint64_t min_age) {
    if (one->protected_) return false;
    if (min_age == 0) return true;
    return one->created_at.is_some && one->created_at.val <= now && now - one->created_at.val >= min_age;
}

// Sorts indices by merging ever longer runs; `other` has room for as many.
static uint32_t *sorted(const member *members, uint32_t *list, uint32_t *other, size_t count) {
    for (size_t run = 1; run < count; run *= 2) {
        for (size_t from = 0; from < count; from += 2 * run) {
            size_t middle = from + run < count ? from + run : count;
            size_t end = from + 2 * run < count ? from + 2 * run : count;
            size_t left = from, right = middle;
            for (size_t to = from; to < end; to++) {
                bool take_right =
                    left == middle || (right < end && leaves_before(&members[list[right]], &members[list[left]]));
                other[to] = take_right ? list[right++] : list[left++];
            }
        }
        uint32_t *merged = other;
        other = list;
        list = merged;
    }
    return list;
}

static text reason(const member *one) {
    struct line line = {0};
    if (use(one) < 0) {
        add(&line, literal("powered off"));
    } else if (one->memory_used_mib.is_some) {
        add(&line, literal("uses "));
        add_number(&line, one->memory_used_mib.val);
        add(&line, literal(" MiB of memory"));
    } else {
        add(&line, literal("use of memory unknown, and nobody else is left to go"));
    }
    return done(line);
}

bool exports_vmgroup_policy_scaling_choose(request *asked,
                                           exports_vmgroup_policy_scaling_list_victim_t *victims,
                                           exports_vmgroup_policy_scaling_refusal_t *refusal) {
    const member *members = asked->members.ptr;
    size_t all = asked->members.len, count = 0;
    uint64_t hours = min_age_hours(asked->context.config);
    uint32_t *list = malloc((all + 1) * sizeof *list), *room = malloc((all + 1) * sizeof *room);
    for (size_t index = 0; index < all; index++) {
        if (may_leave(&members[index], asked->context.now, hours * 3600)) list[count++] = index;
    }

    struct line line = {0};
    add_number(&line, asked->count);
    add(&line, literal(" of "));
    add_number(&line, all);
    add(&line, literal(" members have to leave, and "));
    add_number(&line, count);
    add(&line, literal(" may: the others are protected or younger than "));
    add_number(&line, hours);
    add(&line, literal(" hours"));
    text summary = done(line);
    if (count < asked->count) {
        refusal->tag = VMGROUP_POLICY_TYPES_REFUSAL_UNSATISFIABLE;
        refusal->val.unsatisfiable = summary;
        return false;
    }
    vmgroup_policy_log_log(VMGROUP_POLICY_LOG_LEVEL_DEBUG, &summary);

    list = sorted(members, list, room, count);
    victims->len = asked->count;
    victims->ptr = malloc(asked->count * sizeof *victims->ptr);
    for (size_t index = 0; index < victims->len; index++) {
        victims->ptr[index].member = list[index];
        victims->ptr[index].reason = reason(&members[list[index]]);
    }
    return true;
}
