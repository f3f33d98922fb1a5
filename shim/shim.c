/*
 * podwire's native client: the program that a container runtime starts under every plugin's name.
 *
 * It hands the call (its environment, its stdin, a descriptor of the pod's network namespace) to the agent of this node over
 * a unix socket, prints the answer and exits. Where no agent takes the call, it becomes the one-shot program `podwire` in its
 * own folder, which does the same work in a process of its own.
 *
 *     client                 agent
 *       | ------- CALL -------> |   waits for a worker
 *       | <------ TAKEN ------- |   a worker begins; nothing was done before
 *       | <------ ANSWER ------ |
 *     prints                    |
 *       | ------ PRINTED -----> |   without it the agent takes a successful ADD back: nobody heard of it
 *
 * One question decides what a failure leads to: can anything have been started?
 *   No (no agent, it declines, speaks another version of the frame, goes away before TAKEN or is not heard of for long: it
 *   can then say TAKEN no more): the one-shot program.
 *   Perhaps (it goes away after TAKEN, is silent, sends what is no frame): CNI error 11, "try again later". A second attempt
 *   beside a half-done first one is how addresses are lost.
 *
 * docs/protocol.md describes the frame; agent/frame.py is its other side, and tests/data/frame has cases that both must judge
 * in the same way. judge_reply() is a pure function for that purpose: tests compile this file with another main().
 *
 * How it is written: no allocation, no stdio, one pass from top to bottom of main(). Each path ends in one of three functions
 * that do not return: run_oneshot(), fail(), print_answer(). What the process needs is in static buffers that are as large as
 * the limits; the kernel gives memory only to pages that are written.
 */
#define _GNU_SOURCE /* memfd_create, memmem */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

/* ---------------------------------------------------------------------------------------------------------------------
 * The frame: a header of 12 bytes (magic, version, kind, two zero bytes, size of the body), then the body; little-endian.
 * ------------------------------------------------------------------------------------------------------------------ */

static const uint8_t MAGIC[4] = {'P', 'D', 'W', 'R'};

enum { FRAME_VERSION = 1, HEADER_SIZE = 12 };

enum kind { CALL = 1, TAKEN, ANSWER, DECLINED, PRINTED };

/* The largest bodies, and the largest stdin, in bytes. */
enum { CALL_LIMIT = 4 << 20, ANSWER_LIMIT = 16 << 20, DECLINED_LIMIT = 4096, STDIN_LIMIT = 1 << 20 };

/* What an ANSWER has besides the bytes for stdout and stderr: the exit status and two lengths. */
enum { ANSWER_FIXED = 1 + 4 + 4 };

static void store32(uint8_t *to, uint32_t value)
{
    for (int i = 0; i < 4; i++)
        to[i] = (uint8_t)(value >> (8 * i));
}

static uint32_t load32(const uint8_t *from)
{
    return (uint32_t)from[0] | (uint32_t)from[1] << 8 | (uint32_t)from[2] << 16 | (uint32_t)from[3] << 24;
}

static void store_header(uint8_t *to, enum kind kind, size_t body_size)
{
    memcpy(to, MAGIC, sizeof MAGIC);
    to[4] = FRAME_VERSION;
    to[5] = (uint8_t)kind;
    to[6] = to[7] = 0;
    store32(to + 8, (uint32_t)body_size);
}

/* What the agent has said so far. */
enum verdict {
    OPEN,     /* nothing yet, or a part of its first header */
    BEGUN,    /* TAKEN, and not all of an ANSWER */
    ANSWERED, /* a whole ANSWER: the other members of the reply are set */
    REFUSED,  /* DECLINED; its reason is for people who trace */
    FOREIGN,  /* the header of another version of the frame */
    GARBLED   /* nothing that an agent says */
};

struct reply {
    enum verdict verdict;
    uint8_t status;
    const uint8_t *out, *err;
    size_t out_size, err_size;
    bool more; /* something came behind the ANSWER */
};

/* A whole header of this version gives OPEN and sets kind and size; one that is not all there gives OPEN and kind 0. */
static enum verdict judge_header(const uint8_t *bytes, size_t count, uint8_t *kind, size_t *body_size)
{
    *kind = 0;
    if (memcmp(bytes, MAGIC, count < sizeof MAGIC ? count : sizeof MAGIC) != 0)
        return GARBLED;
    if (count < HEADER_SIZE)
        return OPEN;
    if (bytes[4] != FRAME_VERSION)
        return FOREIGN;
    if (bytes[5] == 0 || bytes[6] != 0 || bytes[7] != 0)
        return GARBLED;
    *kind = bytes[5];
    *body_size = load32(bytes + 8);
    return OPEN;
}

static struct reply judge_answer(const uint8_t *body, size_t size)
{
    struct reply reply = {.verdict = GARBLED};
    if (size < ANSWER_FIXED)
        return reply;
    reply.status = body[0];
    reply.out = body + 5;
    reply.out_size = load32(body + 1);
    if (reply.out_size > size - ANSWER_FIXED)
        return reply;
    reply.err = reply.out + reply.out_size + 4;
    reply.err_size = load32(reply.err - 4);
    if (reply.err_size == size - ANSWER_FIXED - reply.out_size)
        reply.verdict = ANSWERED;
    return reply;
}

/*
 * Judges all bytes that came from the agent so far. Pure. OPEN and BEGUN ask for more; every other verdict is final: no byte
 * that comes later changes it.
 */
static struct reply judge_reply(const uint8_t *bytes, size_t count)
{
    uint8_t kind;
    size_t size;
    struct reply reply = {.verdict = judge_header(bytes, count, &kind, &size)};
    if (reply.verdict != OPEN || kind == 0)
        return reply;
    if (kind == DECLINED && size <= DECLINED_LIMIT) {
        reply.verdict = REFUSED;
        return reply;
    }
    reply.verdict = GARBLED;
    if (kind != TAKEN || size != 0)
        return reply;

    const uint8_t *second = bytes + HEADER_SIZE;
    count -= HEADER_SIZE;
    if (judge_header(second, count, &kind, &size) != OPEN)
        return reply;
    if (kind != 0 && (kind != ANSWER || size > ANSWER_LIMIT))
        return reply;
    if (kind == 0 || count - HEADER_SIZE < size) {
        reply.verdict = BEGUN;
        return reply;
    }
    reply = judge_answer(second + HEADER_SIZE, size);
    reply.more = count - HEADER_SIZE > size;
    return reply;
}

/* ---------------------------------------------------------------------------------------------------------------------
 * What this process knows.
 * ------------------------------------------------------------------------------------------------------------------ */

static const char DEFAULT_SOCKET[] = "/run/podwire/cni.sock";
static const char LATEST[] = "1.1.0"; /* CNI version of an error where the configuration names none */

/* Less than the 120 s that a kubelet waits for its runtime: an error that is read is worth more than one that is not. */
enum { PATIENCE_S = 100 };

/*
 * How long the agent may take to begin. Its queue is that long only when everything on this node hangs, the agent too perhaps.
 * Tests compile with a shorter one.
 */
#ifndef BEGIN_PATIENCE_MS
#define BEGIN_PATIENCE_MS 20000
#endif

/* VERSION may be asked by hand with a stdin that never ends; no runtime takes that long to write its few bytes. */
enum { VERSION_PATIENCE_MS = 1000 };

static char *plugin;        /* the name we were called by */
static int64_t patience_s;  /* for the whole call, but for the time that printing takes */
static int64_t deadline_ms; /* on the clock of now_ms() */
static int64_t begin_by_ms; /* the same; never after the deadline */

static uint8_t call[HEADER_SIZE + CALL_LIMIT + 1]; /* the frame; one byte more shows a stdin that is too long */
static size_t call_size;
static uint8_t *config; /* stdin's bytes, at the frame's end; NULL until stdin was touched */
static size_t config_size;

static uint8_t replied[HEADER_SIZE + HEADER_SIZE + ANSWER_LIMIT]; /* TAKEN and ANSWER */

static const char *socket_path(void)
{
    const char *path = getenv("PODWIRE_SOCKET");
    return path == NULL ? DEFAULT_SOCKET : path;
}

static bool is_set(const char *text) { return text != NULL && *text != '\0'; }

static int64_t now_ms(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

/* Whether fd became ready for the events before the time. An error counts as ready: the call that follows will tell it. */
static bool wait_for(int fd, short events, int64_t until_ms)
{
    for (;;) {
        int64_t left_ms = until_ms - now_ms();
        if (left_ms <= 0)
            return false;
        struct pollfd watched = {.fd = fd, .events = events};
        int ready = poll(&watched, 1, (int)left_ms);
        if (ready != 0 && !(ready < 0 && errno == EINTR))
            return true;
    }
}

/* Writes everything, to a descriptor that may be non-blocking. */
static bool write_all(int fd, const uint8_t *bytes, size_t size)
{
    while (size > 0) {
        ssize_t count = write(fd, bytes, size);
        if (count >= 0) {
            bytes += count;
            size -= (size_t)count;
        } else if (errno == EAGAIN) {
            if (!wait_for(fd, POLLOUT, deadline_ms))
                return false;
        } else if (errno != EINTR) {
            return false;
        }
    }
    return true;
}

/*
 * Descriptors that we open stay clear of 0, 1 and 2 also where the caller closed those: an answer that nobody can read must
 * not be written into a socket.
 */
static int above_stdio(int fd)
{
    if (fd < 0 || fd > STDERR_FILENO)
        return fd;
    int moved = fcntl(fd, F_DUPFD_CLOEXEC, STDERR_FILENO + 1);
    close(fd);
    return moved;
}

/* ---------------------------------------------------------------------------------------------------------------------
 * The ends of a call: an error object, the one-shot program, the agent's answer.
 * ------------------------------------------------------------------------------------------------------------------ */

enum failure { STDIN_UNREADABLE, STDIN_TOO_LONG, STDIN_ENDLESS, AGENT_SILENT, AGENT_GONE, AGENT_GARBLED, ONESHOT_FAILED };

/* # stands for a number, ! for the system's text of it, % for a quoted text. 5: input failed, 11: try again later. */
static const struct {
    int code;
    const char *msg, *details;
} FAILURES[] = {
    [STDIN_UNREADABLE] = {5, "cannot read the network configuration from stdin", "[Errno #] !"},
    [STDIN_TOO_LONG] = {5, "cannot read the network configuration from stdin", "more than # bytes"},
    [STDIN_ENDLESS] = {11, "cannot read the network configuration from stdin", "it did not end within # s"},
    [AGENT_SILENT] = {11, "the podwire agent at '%' did not answer within # s",
                      "it may still work on this call, so nothing was started in its place; call again, or look at the agent"},
    [AGENT_GONE] = {11, "the podwire agent at '%' ended while it worked on this call",
                    "it may have done a part of it, so nothing was started in its place; call again"},
    [AGENT_GARBLED] = {11, "what listens at '%' gave no answer of a podwire agent",
                       "it may have begun with this call, so nothing was started in its place; see who listens there"},
    [ONESHOT_FAILED] = {11, "cannot run '%': !",
                        "it serves the calls that no podwire agent takes; install podwire again, or start the agent"},
};

static struct {
    char bytes[8192];
    size_t size;
} document;

/*
 * One character inside a JSON string. Printable ASCII, with those escaped that are in all our documents; of the rest, which
 * only a path from the environment can have, the number: the document is UTF-8 for sure.
 */
static void put_escaped(unsigned char c)
{
    static const char HEX[] = "0123456789abcdef";
    char *to = document.bytes + document.size;
    if (document.size + 6 > sizeof document.bytes)
        return;
    if (c == '"' || c == '\\') {
        *to++ = '\\';
        *to++ = (char)c;
    } else if (c >= ' ' && c <= '~' && strchr("<>&", c) == NULL) {
        *to++ = (char)c;
    } else {
        to = mempcpy(to, c >= ' ' && c <= '~' ? "\\u00" : "\\\\x", c >= ' ' && c <= '~' ? 4 : 3);
        *to++ = HEX[c >> 4];
        *to++ = HEX[c & 15];
    }
    document.size = (size_t)(to - document.bytes);
}

static void put_text(const char *text, size_t limit)
{
    for (size_t i = 0; i < limit && text[i] != '\0'; i++)
        put_escaped((unsigned char)text[i]);
}

static void put_number(int64_t number)
{
    char digits[20];
    size_t first = sizeof digits;
    do {
        digits[--first] = (char)('0' + number % 10);
        number /= 10;
    } while (number > 0);
    put_text(digits + first, sizeof digits - first);
}

static void put_filled(const char *template, int64_t number, const char *text)
{
    for (; *template != '\0'; template++) {
        if (*template == '#')
            put_number(number);
        else if (*template == '!')
            put_text(strerror((int)number), 100);
        else if (*template == '%')
            put_text(text, 1000);
        else
            put_escaped((unsigned char)*template);
    }
}

static void put_raw(const char *text)
{
    size_t size = strlen(text);
    if (document.size + size > sizeof document.bytes)
        return;
    memcpy(document.bytes + document.size, text, size);
    document.size += size;
}

static const uint8_t *skip_blanks(const uint8_t *from, const uint8_t *end)
{
    while (from < end && (*from == ' ' || *from == '\t' || *from == '\r' || *from == '\n'))
        from++;
    return from;
}

/* The first "cniVersion" on stdin if it is digits and dots, else the latest; this is no JSON parser, and need not be one. */
static void put_asked_version(void)
{
    static const char KEY[] = "\"cniVersion\"";
    const uint8_t *end = config + config_size;
    const uint8_t *at = config_size > 0 ? memmem(config, config_size, KEY, sizeof KEY - 1) : NULL;
    char version[16] = "";
    if (at != NULL) {
        at = skip_blanks(at + sizeof KEY - 1, end);
        at = at < end && *at == ':' ? skip_blanks(at + 1, end) : end;
        size_t size = 0;
        if (at < end && *at == '"')
            for (at++; at < end && ((*at >= '0' && *at <= '9') || *at == '.') && size < sizeof version - 1; at++)
                version[size++] = (char)*at;
        if (at == end || *at != '"')
            version[0] = '\0';
    }
    put_raw(version[0] != '\0' ? version : LATEST);
}

/* Prints an error object (CNI specification, section 5, "Error") in the layout of all our documents, and ends. */
static _Noreturn void fail(enum failure which, int64_t number, const char *text)
{
    put_raw("{\n    \"cniVersion\": \"");
    if (FAILURES[which].code == 5)
        put_raw(LATEST); /* as the one-shot program: where stdin failed, nothing on it counts */
    else
        put_asked_version();
    put_raw("\",\n    \"code\": ");
    put_number(FAILURES[which].code);
    put_raw(",\n    \"msg\": \"");
    put_filled(FAILURES[which].msg, number, text);
    put_raw("\",\n    \"details\": \"");
    put_filled(FAILURES[which].details, number, text);
    put_raw("\"\n}");
    signal(SIGPIPE, SIG_IGN);
    (void)write_all(STDOUT_FILENO, (const uint8_t *)document.bytes, document.size);
    _exit(1);
}

/* Makes what was read of stdin the stdin of the next program. */
static bool refill_stdin(void)
{
    int memory = above_stdio(memfd_create("stdin", MFD_CLOEXEC));
    if (memory < 0 || !write_all(memory, config, config_size))
        return false;
    return lseek(memory, 0, SEEK_SET) == 0 && dup2(memory, STDIN_FILENO) == STDIN_FILENO;
}

/*
 * Becomes the one-shot program. Signals, environment and working folder are as our caller left them; every descriptor that we
 * opened closes itself.
 */
static _Noreturn void run_oneshot(void)
{
    static char beside_us[PATH_MAX + sizeof "podwire"];
    char *program = getenv("PODWIRE_ONESHOT");
    if (!is_set(program)) {
        program = beside_us;
        if (readlink("/proc/self/exe", beside_us, PATH_MAX) < 0)
            fail(ONESHOT_FAILED, errno, "/proc/self/exe");
        char *slash = strrchr(beside_us, '/');
        strcpy(slash == NULL ? beside_us : slash + 1, "podwire");
    }
    char *arguments[] = {program, is_set(plugin) ? plugin : NULL, NULL};
    if (config == NULL || refill_stdin())
        execv(program, arguments);
    fail(ONESHOT_FAILED, errno, program);
}

/*
 * Whether the agent still waits for PRINTED. After a successful ADD it stays on the line until then, or until it has waited for too
 * long: then it stops listening before it takes the ADD back, says a second ANSWER when it has, and hangs up. This process
 * may have been stopped meanwhile, or nobody read its stderr. A send of nothing fails where the other end does not listen.
 */
static bool still_waits(int agent)
{
    uint8_t more;
    return send(agent, "", 0, MSG_NOSIGNAL) == 0 && recv(agent, &more, 1, MSG_PEEK | MSG_DONTWAIT) < 0 && errno == EAGAIN;
}

/*
 * Standard error first, as the one-shot program does it. SIGPIPE is ignored from here on only: no program follows. With
 * must_hear the agent takes back what it did unless it hears that this was printed; then this is no success.
 */
static _Noreturn void print_answer(int agent, const struct reply *reply, bool must_hear)
{
    uint8_t printed[HEADER_SIZE];
    signal(SIGPIPE, SIG_IGN);
    (void)write_all(STDERR_FILENO, reply->err, reply->err_size); /* if nobody listens, the answer is what counts */
    if (must_hear && (reply->more || !still_waits(agent)))
        fail(AGENT_GONE, 0, socket_path());
    if (!write_all(STDOUT_FILENO, reply->out, reply->out_size))
        _exit(1);
    if (reply->status == 0) {
        store_header(printed, PRINTED, 0);
        ssize_t sent = send(agent, printed, sizeof printed, MSG_NOSIGNAL);
        if (must_hear && sent != (ssize_t)sizeof printed)
            _exit(1); /* it stopped listening while nobody read our stdout; the runtime will DEL */
    }
    _exit(reply->status);
}

/* ---------------------------------------------------------------------------------------------------------------------
 * The way of a call.
 * ------------------------------------------------------------------------------------------------------------------ */

/* The last part of the path we were called by. Under its own file name the program takes it from its first argument. */
static char *plugin_name(int argc, char **argv)
{
    static char none[] = "";
    if (argc < 1)
        return none;
    char *slash = strrchr(argv[0], '/');
    char *name = slash == NULL ? argv[0] : slash + 1;
    if (strcmp(name, "shim") != 0)
        return name;
    return argc > 1 ? argv[1] : none;
}

static int64_t asked_patience_s(void)
{
    const char *text = getenv("PODWIRE_TIMEOUT");
    size_t digits = text == NULL ? 0 : strspn(text, "0123456789");
    int64_t seconds = 0;
    if (digits > 0 && digits <= 4 && text[digits] == '\0')
        for (size_t i = 0; i < digits; i++)
            seconds = seconds * 10 + (text[i] - '0');
    return seconds > 0 ? seconds : PATIENCE_S;
}

/* A length and the bytes. False when the frame would lack room for the longest stdin. */
static bool put_string(const char *text)
{
    size_t size = strlen(text), limit = HEADER_SIZE + CALL_LIMIT - 4 - STDIN_LIMIT;
    if (size + 4 > limit - call_size)
        return false;
    store32(call + call_size, (uint32_t)size);
    memcpy(call + call_size + 4, text, size);
    call_size += 4 + size;
    return true;
}

/* Everything of the frame that stands before stdin. */
static bool begin_call(void)
{
    extern char **environ;
    static char folder[PATH_MAX];
    uint32_t count = 0;
    call_size = HEADER_SIZE + 8;
    if (!put_string(plugin) || !put_string(getcwd(folder, sizeof folder) == NULL ? "" : folder))
        return false;
    for (char **entry = environ; *entry != NULL; entry++, count++)
        if (!put_string(*entry))
            return false;
    store32(call + HEADER_SIZE + 4, count);
    return true;
}

static void read_config(bool for_version)
{
    int64_t until_ms = for_version ? now_ms() + VERSION_PATIENCE_MS : deadline_ms;
    config = call + call_size + 4;
    if (for_version && isatty(STDIN_FILENO))
        return;
    for (;;) {
        if (!wait_for(STDIN_FILENO, POLLIN, until_ms)) {
            if (for_version)
                return;
            fail(STDIN_ENDLESS, patience_s, "");
        }
        ssize_t count = read(STDIN_FILENO, config + config_size, STDIN_LIMIT + 1 - config_size);
        if (count == 0)
            return;
        if (count > 0)
            config_size += (size_t)count;
        else if (errno != EINTR && errno != EAGAIN)
            fail(STDIN_UNREADABLE, errno, "");
        if (config_size > STDIN_LIMIT)
            fail(STDIN_TOO_LONG, STDIN_LIMIT, "");
    }
}

static void end_call(int32_t sandbox)
{
    store32(config - 4, (uint32_t)config_size);
    call_size += 4 + config_size;
    store32(call + HEADER_SIZE, (uint32_t)sandbox);
    store_header(call, CALL, call_size - HEADER_SIZE);
}

/* Opens the pod's namespace as the one-shot program does. 0, or -1 when the call names none, or the errno of the open. */
static int32_t open_sandbox(int *descriptor)
{
    const char *path = getenv("CNI_NETNS");
    if (!is_set(path))
        return -1;
    *descriptor = above_stdio(open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK));
    return *descriptor < 0 ? errno : 0;
}

/* The socket never blocks, so a queue of connections that is full counts as no agent: it would be an agent that hangs. */
static int connect_agent(void)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    size_t size = strlen(socket_path());
    if (size == 0 || size >= sizeof address.sun_path)
        return -1;
    memcpy(address.sun_path, socket_path(), size);
    int agent = above_stdio(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    if (agent < 0 || connect(agent, (const struct sockaddr *)&address, sizeof address) != 0)
        return -1;
    return agent;
}

/* The descriptors travel with the first byte. False when the call is not all sent, and no reply is to be expected. */
static bool send_call(int agent, const int *descriptors, size_t count)
{
    union {
        struct cmsghdr aligned;
        uint8_t bytes[CMSG_SPACE(2 * sizeof(int))];
    } control = {.bytes = {0}};
    struct iovec rest = {.iov_base = call, .iov_len = call_size};
    struct msghdr message = {.msg_iov = &rest, .msg_iovlen = 1, .msg_control = control.bytes};
    message.msg_controllen = (socklen_t)CMSG_SPACE(count * sizeof(int));
    struct cmsghdr *attached = CMSG_FIRSTHDR(&message);
    attached->cmsg_level = SOL_SOCKET;
    attached->cmsg_type = SCM_RIGHTS;
    attached->cmsg_len = (socklen_t)CMSG_LEN(count * sizeof(int));
    memcpy(CMSG_DATA(attached), descriptors, count * sizeof(int));

    while (rest.iov_len > 0) {
        ssize_t sent = sendmsg(agent, &message, MSG_NOSIGNAL);
        if (sent > 0) {
            rest.iov_base = (uint8_t *)rest.iov_base + sent;
            rest.iov_len -= (size_t)sent;
            message.msg_control = NULL;
            message.msg_controllen = 0;
        } else if (errno == EAGAIN) {
            if (!wait_for(agent, POLLOUT, begin_by_ms)) {
                if (begin_by_ms == deadline_ms)
                    fail(AGENT_SILENT, patience_s, socket_path());
                return false;
            }
        } else if (errno != EINTR) {
            return errno == EPIPE || errno == ECONNRESET; /* it may have said why before it hung up */
        }
    }
    return true;
}

/*
 * What the agent says, until that is final, or until it hangs up: then the verdict is OPEN or BEGUN. An agent that does not
 * begin in time is not listened to any more: its TAKEN is here by now, or its sending it fails, and it then does nothing.
 */
static struct reply await_reply(int agent)
{
    size_t size = 0;
    int64_t until_ms = begin_by_ms;
    for (;;) {
        struct reply reply = judge_reply(replied, size);
        if (reply.verdict != OPEN && reply.verdict != BEGUN)
            return reply;
        if (reply.verdict == BEGUN)
            until_ms = deadline_ms;
        if (!wait_for(agent, POLLIN, until_ms)) {
            if (until_ms == deadline_ms)
                fail(AGENT_SILENT, patience_s, socket_path());
            shutdown(agent, SHUT_RD);
            until_ms = deadline_ms;
        }
        ssize_t count = recv(agent, replied + size, sizeof replied - size, 0);
        if (count == 0 || (count < 0 && errno != EINTR && errno != EAGAIN))
            return reply;
        if (count > 0)
            size += (size_t)count;
    }
}

int main(int argc, char **argv)
{
    const char *verb = getenv("CNI_COMMAND");
    plugin = plugin_name(argc, argv);
    patience_s = asked_patience_s();
    deadline_ms = now_ms() + patience_s * 1000;

    /* People who try a program get its help. An environment that no frame can carry is no reason to fail. */
    if (!is_set(verb) || !is_set(plugin) || !begin_call())
        run_oneshot();
    read_config(strcmp(verb, "VERSION") == 0);

    int agent = connect_agent(), descriptors[2];
    if (agent < 0 || (descriptors[0] = above_stdio(open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC))) < 0)
        run_oneshot();
    int32_t sandbox = open_sandbox(&descriptors[1]);
    end_call(sandbox);
    begin_by_ms = now_ms() + BEGIN_PATIENCE_MS;
    if (begin_by_ms > deadline_ms)
        begin_by_ms = deadline_ms;
    if (!send_call(agent, descriptors, sandbox == 0 ? 2 : 1))
        run_oneshot();

    struct reply reply = await_reply(agent);
    switch (reply.verdict) {
    case ANSWERED:
        print_answer(agent, &reply, reply.status == 0 && strcmp(verb, "ADD") == 0);
    case OPEN:
    case REFUSED:
    case FOREIGN:
        run_oneshot();
    case BEGUN:
        fail(AGENT_GONE, 0, socket_path());
    case GARBLED:
        break;
    }
    fail(AGENT_GARBLED, 0, socket_path());
}
