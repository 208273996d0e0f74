package keyservice

import "strconv"

// serialLength is the number of digits of a serial, its Luhn check digit included: short enough to type from a receipt.
const serialLength = 12

// makeSerial appends the Luhn check digit to the 11 random digits of a new serial.
func makeSerial(digits string) string { return digits + strconv.Itoa(luhnDigit(digits)) }

// checkSerial returns an *Error unless s is 12 ASCII digits whose last is the Luhn check digit of the rest.
func checkSerial(s string) error {
	if len(s) != serialLength || !luhnValid(s) {
		return &Error{Code: CodeSerialInvalid, Detail: "a serial is 12 digits with a check digit: one of them is mistyped"}
	}
	return nil
}

// luhnValid says whether s is ASCII digits that end in their Luhn check digit (ISO/IEC 7812-1 annex B).
func luhnValid(s string) bool {
	for i := range len(s) {
		if s[i] < '0' || s[i] > '9' {
			return false
		}
	}
	return len(s) > 1 && luhnDigit(s[:len(s)-1]) == int(s[len(s)-1]-'0')
}

// luhnDigit is the check digit of a string of ASCII digits.
func luhnDigit(digits string) int {
	sum := 0
	for i := range len(digits) {
		d := int(digits[len(digits)-1-i] - '0')
		if i%2 == 0 {
			d *= 2
		}
		sum += d/10 + d%10
	}
	return (10 - sum%10) % 10
}
