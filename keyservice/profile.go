package keyservice

import (
	"fmt"

	"ramzban/keyservice/otp"
)

// Profile is a kind of token as configured. A token keeps, sealed, the policy and limits it was issued with.
type Profile struct {
	Policy otp.Policy
	Guess  GuessLimits // throttling of its passwords
}

// Validate says what is wrong with a profile, in words for the person who wrote it.
func (p Profile) Validate() error {
	if err := p.Policy.Validate(); err != nil {
		return err
	}
	if err := p.Guess.Validate(); err != nil {
		return fmt.Errorf("guessing: %w", err)
	}
	return nil
}
