// SPDX-License-Identifier: Apache-2.0

package qmp

// Limits of QEMU's parser (qobject/json-lexer.c, json-streamer.c).
const (
	maxTokenSize  = 64 << 20 // bytes of all tokens of one value
	maxTokenCount = 2 << 20
	maxNesting    = 1024
)

type token uint8

const (
	tokenLeftBrace token = iota
	tokenRightBrace
	tokenLeftBracket
	tokenRightBracket
	tokenColon
	tokenComma
	tokenInteger
	tokenFloat
	tokenKeyword
	tokenString
	tokenOversize // an unfinished token that reached the limit
	tokenError    // bytes that begin no token
)

type lexState uint8

const (
	lexStart lexState = iota
	lexRecovery
	lexString
	lexStringEscape
	lexZero
	lexDigits
	lexSign
	lexPoint
	lexFraction
	lexExp
	lexExpSign
	lexExpDigits
	lexKeyword
)

// lexer cuts a stream of bytes, fed one at a time, into tokens. Like QEMU's it
// takes more than JSON: strings in single quotes, any lower-case word (the
// parser knows the three right ones), any escape in a string (the parser again).
// Bytes that fit nowhere give one tokenError, and everything up to the next
// structural character, control character or impossible byte is skipped.
type lexer struct {
	state lexState
	quote byte // the one that ends the string
	text  []byte
	// token is called for each token; text is valid during the call.
	token func(t token, text []byte)
}

func (l *lexer) feed(b byte) {
	for !l.step(b) {
	}
	if len(l.text) > maxTokenSize {
		l.finish(tokenOversize)
	}
}

// move says what a byte is to the token that is being read.
type move uint8

const (
	inside move = iota // part of it
	last               // part of it, and ends it
	beyond             // not part of it, which ends it; to be looked at again
	skip               // white space, or skipped after an error
	bad                // fits nowhere
)

// step takes b, or ends a token in front of it and returns false.
func (l *lexer) step(b byte) (taken bool) {
	next, m := l.next(b)
	switch m {
	case inside:
		l.text = append(l.text, b)
		l.state = next
	case last:
		t := tokenString
		if l.state == lexStart {
			t, _ = structural(b)
		}
		l.text = append(l.text, b)
		l.finish(t)
	case beyond:
		if l.state == lexRecovery {
			l.state = lexStart
		} else {
			l.finish(endOf(l.state))
		}
		return false
	case bad:
		l.text = append(l.text, b)
		l.finish(tokenError)
		l.state = lexRecovery
	}
	return true
}

// next looks at b in the current state; the new state is of use with inside.
func (l *lexer) next(b byte) (lexState, move) {
	switch l.state {
	case lexStart:
		return l.first(b)
	case lexRecovery:
		_, resync := structural(b)
		if b == '\t' || b >= 0x20 && b <= 0xFD && !resync {
			return 0, skip
		}
		return 0, beyond
	case lexString:
		switch {
		case b < 0x20 || b > 0xFD:
			return 0, bad
		case b == l.quote:
			return 0, last
		case b == '\\':
			return lexStringEscape, inside
		}
		return lexString, inside
	case lexStringEscape:
		return orBad(lexString, b >= 0x20 && b <= 0xFD)
	case lexKeyword:
		if 'a' <= b && b <= 'z' {
			return lexKeyword, inside
		}
		return 0, beyond
	}
	return l.nextInNumber(b, '0' <= b && b <= '9')
}

// first is next between tokens.
func (l *lexer) first(b byte) (lexState, move) {
	switch {
	case b == ' ', b == '\t', b == '\r', b == '\n':
		return 0, skip
	case b == '"', b == '\'':
		l.quote = b
		return lexString, inside
	case b == '0':
		return lexZero, inside
	case '1' <= b && b <= '9':
		return lexDigits, inside
	case b == '-':
		return lexSign, inside
	case 'a' <= b && b <= 'z':
		return lexKeyword, inside
	}
	if _, ok := structural(b); ok {
		return 0, last
	}
	return 0, bad
}

// nextInNumber is next after the first character of a number.
func (l *lexer) nextInNumber(b byte, digit bool) (lexState, move) {
	switch l.state {
	case lexSign:
		if b == '0' {
			return lexZero, inside
		}
		return orBad(lexDigits, digit)
	case lexPoint:
		return orBad(lexFraction, digit)
	case lexExp:
		if b == '-' || b == '+' {
			return lexExpSign, inside
		}
		return orBad(lexExpDigits, digit)
	case lexExpSign:
		return orBad(lexExpDigits, digit)
	case lexZero:
		if digit {
			return 0, bad
		}
	}
	// The number could end here.
	switch {
	case digit:
		return l.state, inside
	case b == '.' && (l.state == lexZero || l.state == lexDigits):
		return lexPoint, inside
	case (b == 'e' || b == 'E') && (l.state == lexDigits || l.state == lexFraction):
		return lexExp, inside
	}
	return 0, beyond
}

func orBad(next lexState, ok bool) (lexState, move) {
	if !ok {
		return 0, bad
	}
	return next, inside
}

// endOf is the kind of token that ends in state s without a last character.
func endOf(s lexState) token {
	switch s {
	case lexZero, lexDigits:
		return tokenInteger
	case lexKeyword:
		return tokenKeyword
	}
	return tokenFloat
}

func structural(b byte) (token, bool) {
	switch b {
	case '{':
		return tokenLeftBrace, true
	case '}':
		return tokenRightBrace, true
	case '[':
		return tokenLeftBracket, true
	case ']':
		return tokenRightBracket, true
	case ':':
		return tokenColon, true
	case ',':
		return tokenComma, true
	}
	return 0, false
}

// finish hands out what has been read as a t and starts over.
func (l *lexer) finish(t token) {
	l.token(t, l.text)
	l.state = lexStart
	if cap(l.text) > 64<<10 {
		l.text = nil // one long string is no reason to keep its memory
	}
	l.text = l.text[:0]
}
