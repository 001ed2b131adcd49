// SPDX-License-Identifier: Apache-2.0
//
// A program into which system calls are injected. Its main thread holds known values in all of its registers, in a system call (victim
// poll) or in a loop (victim loop), and ends with "bad" if one of them changed. Another thread does what standard input says to memory that
// the first line printed names: "w OFFSET VALUE" writes a byte, "d OFFSET LENGTH" discards pages.
#define _GNU_SOURCE
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

enum { SIZE = 8 << 20 };
static unsigned char *memory;
static volatile long rounds;

static void *commands(void *unused)
{
	char line[100], kind;
	unsigned long offset, value;

	while (fgets(line, sizeof line, stdin) && sscanf(line, "%c %lu %lu", &kind, &offset, &value) == 3) {
		if (kind == 'w')
			memory[offset] = value;
		else if (kind == 'd')
			madvise(memory + offset, value, MADV_DONTNEED);
		printf("done %lu rounds %ld\n", offset, rounds);
		fflush(stdout);
	}
	exit(0);
}

static uint8_t in[6 * 64] __attribute__((aligned(64))), out[6 * 64] __attribute__((aligned(64)));
static uint64_t masks_in[2], masks_out[2];

#define WIDE_LOAD(v, r) \
	"vmovdqu" v " 0(%[in])," r "0\n vmovdqu" v " 64(%[in])," r "1\n vmovdqu" v " 128(%[in])," r "2\n" \
	"vmovdqu" v " 192(%[in])," r "7\n vmovdqu" v " 256(%[in])," r "14\n vmovdqu" v " 320(%[in])," r "15\n"
#define WIDE_STORE(v, r) \
	"vmovdqu" v " " r "0,0(%[out])\n vmovdqu" v " " r "1,64(%[out])\n vmovdqu" v " " r "2,128(%[out])\n" \
	"vmovdqu" v " " r "7,192(%[out])\n vmovdqu" v " " r "14,256(%[out])\n vmovdqu" v " " r "15,320(%[out])\n"

int main(int argc, char **argv)
{
	int loop = argc > 1 && !strcmp(argv[1], "loop");
	int avx512 = __builtin_cpu_supports("avx512bw");
	size_t width = avx512 ? 64 : 32;
	pthread_t thread;
	int device = open("/dev/userfaultfd", O_RDWR | O_CLOEXEC);

	memory = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	memset(memory, 1, SIZE);
	for (size_t i = 0; i < sizeof in; i++)
		in[i] = rand();
	masks_in[0] = 0x1122334455667788, masks_in[1] = 0x99aabbccddeeff00;
	printf("%d %lu %d\n", device, (unsigned long)memory, SIZE);
	fflush(stdout);
	pthread_create(&thread, NULL, commands, NULL);

	unsigned mxcsr = 0x1f80 | 0x6000, mxcsr_out; // rounding modes that nothing sets by itself
	unsigned short control = 0x27f, control_out;
	for (;; rounds++) {
		struct timespec wait = {0, 2000000};
		struct pollfd none = {-1, 0, 0};
		long result = 0, count = 200000;
		register long r10 asm("r10") = 0, r8 asm("r8") = 8;

		asm volatile("fldcw %0; ldmxcsr %1" ::"m"(control), "m"(mxcsr));
		if (avx512)
			asm volatile(WIDE_LOAD("64", "%%zmm") "kmovq 0(%[k]),%%k1\n kmovq 8(%[k]),%%k7\n" ::[in] "r"(in), [k] "r"(masks_in) : "memory");
		else
			asm volatile(WIDE_LOAD("", "%%ymm") ::[in] "r"(in) : "memory");
		if (loop)
			asm volatile("movq $0x1122334455667788,%%rax\n movq %%rax,-120(%%rsp)\n movq %%rax,-8(%%rsp)\n"
				     "1: dec %0\n jnz 1b\n"
				     "movq $0x1122334455667788,%%rcx\n cmpq %%rcx,-120(%%rsp)\n jne 2f\n cmpq %%rcx,-8(%%rsp)\n jne 2f\n"
				     "cmpq %%rcx,%%rax\n je 3f\n 2: movl $1,%k1\n 3:\n"
				     : "+r"(count), "+r"(result)::"rax", "rcx", "memory", "cc");
		else
			asm volatile("syscall" : "=a"(result) : "a"(SYS_ppoll), "D"(&none), "S"(1L), "d"(&wait), "r"(r10), "r"(r8) : "rcx", "r11", "memory");
		if (avx512)
			asm volatile(WIDE_STORE("64", "%%zmm") "kmovq %%k1,0(%[k])\n kmovq %%k7,8(%[k])\n" ::[out] "r"(out), [k] "r"(masks_out) : "memory");
		else
			asm volatile(WIDE_STORE("", "%%ymm") ::[out] "r"(out) : "memory");
		asm volatile("fnstcw %0; stmxcsr %1" : "=m"(control_out), "=m"(mxcsr_out));
		int bad = result != 0;
		for (size_t i = 0; i < sizeof in; i += 64)
			bad |= memcmp(in + i, out + i, width) ? 2 : 0;
		bad |= avx512 && memcmp(masks_in, masks_out, sizeof masks_in) ? 4 : 0;
		bad |= control_out != control ? 8 : 0;
		bad |= (mxcsr_out & ~0x3f) != mxcsr ? 16 : 0;
		if (bad) {
			printf("bad %#x result %ld after %ld\n", bad, result, rounds);
			return 1;
		}
	}
}
