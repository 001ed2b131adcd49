// SPDX-License-Identifier: Apache-2.0

package main

const (
	pageSize  = 4096
	pageWords = pageSize / 8
)

// page is one page of the memory under test.
type page [pageWords]uint64

// mix is the finalizer of SplitMix64: a bijection in which every bit of x
// changes half the bits of the result.
func mix(x uint64) uint64 {
	x ^= x >> 30
	x *= 0xbf58476d1ce4e5b9
	x ^= x >> 27
	x *= 0x94d049bb133111eb
	return x ^ x>>31
}

// content is the first word of a page and the odd step from each word to the
// next. They determine the page, and no two pages, nor two generations of one,
// have a word in common except by chance. One addition a word keeps filling and
// checking fast in an emulated processor.
func content(seed, number uint64, generation uint32) (first, step uint64) {
	first = mix(mix(seed+number*0x9e3779b97f4a7c15) + uint64(generation))
	return first, mix(first) | 1
}

// write makes p the given generation of a page.
func (p *page) write(seed, number uint64, generation uint32) {
	w, step := content(seed, number, generation)
	for i := range p {
		p[i] = w
		w += step
	}
}

// is says whether p is exactly the given generation of a page.
func (p *page) is(seed, number uint64, generation uint32) bool {
	w, step := content(seed, number, generation)
	var differ uint64
	for i := range p {
		differ |= p[i] ^ w
		w += step
	}
	return differ == 0
}

// isZero says whether every byte of p is zero.
func (p *page) isZero() bool {
	var or uint64
	for i := range p {
		or |= p[i]
	}
	return or == 0
}

// sum is a checksum of what is in the page, whatever it should be (Fletcher's, of
// 64-bit words, so that the order counts).
func (p *page) sum() uint64 {
	var a, b uint64
	for i := range p {
		a += p[i]
		b += a
	}
	return mix(a) + b
}
