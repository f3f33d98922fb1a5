/*
 * Feeds many replies to the parser of shim/shim.c in one process, for sanitizers.
 *
 * stdin: records of a length (4 bytes, little-endian) and so many bytes. stdout, for each and at once: the verdict as one byte;
 * for an answer also the status as one byte, and stdout and stderr as records. Each reply lies in memory of exactly its size, so
 * that reading one byte too many is found.
 */
#define main shim_main
#include "../../shim/shim.c"
#undef main

#include <stdio.h>

static void print_record(const uint8_t *bytes, size_t size)
{
    uint8_t length[4];
    store32(length, (uint32_t)size);
    fwrite(length, 1, sizeof length, stdout);
    fwrite(bytes, 1, size, stdout);
}

int main(void)
{
    uint8_t length[4];
    while (fread(length, 1, sizeof length, stdin) == sizeof length) {
        size_t size = load32(length);
        uint8_t *bytes = malloc(size);
        if (bytes == NULL || fread(bytes, 1, size, stdin) != size)
            return 2;
        struct reply reply = judge_reply(bytes, size);
        putchar((int)reply.verdict);
        if (reply.verdict == ANSWERED) {
            putchar(reply.status);
            print_record(reply.out, reply.out_size);
            print_record(reply.err, reply.err_size);
        }
        fflush(stdout);
        free(bytes);
    }
    return 0;
}
