package main

import (
	"maps"
	"slices"
	"time"

	"ramzban/keyservice"
	"ramzban/keyservice/otp"
	"ramzban/keyservice/seed"
)

// shippedProfiles are there without being configured; a profile of the same name in the file replaces one. Passwords of
// a phone that are not made for one transaction are good for any: core banking sends the transaction with every payment,
// and the answer says that they were not bound to it.
func shippedProfiles() map[string]ProfileConfig {
	sha1, sha256 := HashName(seed.SHA1), HashName(seed.SHA256)
	return map[string]ProfileConfig{
		"offline-60":     timed(60, 180, ProfileConfig{Type: otp.TOTP, Hash: sha1, Digits: 6, Period: seconds(60), AllowUnbound: true}),
		"offline-120":    timed(120, 240, ProfileConfig{Type: otp.TOTP, Hash: sha1, Digits: 6, Period: seconds(120), AllowUnbound: true}),
		"offline-pin-60": timed(60, 180, ProfileConfig{Type: otp.OCRA, Suite: "OCRA-1:HOTP-SHA1-6:QN08-PSHA1-T1M", PINDigits: 8, AllowUnbound: true}),
		"offline-pin-120": timed(120, 240, ProfileConfig{Type: otp.OCRA, Suite: "OCRA-1:HOTP-SHA1-6:QN08-PSHA1-T2M", PINDigits: 8,
			AllowUnbound: true}),
		"signing-60":     timed(60, 180, ProfileConfig{Type: otp.OCRA, Suite: "OCRA-1:HOTP-SHA256-6:QH64-T1M", Signs: true}),
		"signing-pin-60": timed(60, 180, ProfileConfig{Type: otp.OCRA, Suite: "OCRA-1:HOTP-SHA256-6:QH64-PSHA256-T1M", PINDigits: 8, Signs: true}),
		"counter-6":      {Type: otp.HOTP, Hash: sha1, Digits: 6, LookAhead: 10, ResyncAhead: 100, AllowUnbound: true},
		"sms-120":        {Type: otp.SMS, Hash: sha256, Digits: 6, Validity: seconds(120)},
	}
}

// timed adds to a profile of time steps, in seconds, how long a password is good and how wrong a phone's clock may be.
func timed(step, driftBound int, p ProfileConfig) ProfileConfig {
	p.Validity, p.DriftSearch, p.DriftBound = seconds(step), seconds(step), seconds(driftBound)
	return p
}

// profiles returns the profiles as the key service takes them.
func (c Config) profiles() map[string]keyservice.Profile {
	profiles := make(map[string]keyservice.Profile, len(c.Profiles))
	for name, p := range c.Profiles {
		guessing := c.Guessing
		if p.Guessing != nil {
			guessing = *p.Guessing
		}
		profiles[name] = keyservice.Profile{Policy: p.Policy(), Guess: guessing.Limits()}
	}
	return profiles
}

func (c Config) checkProfiles() error {
	for _, name := range slices.Sorted(maps.Keys(c.Profiles)) {
		if !nameForm.MatchString(name) {
			return wrong("profiles", "%q is not %s", name, nameRule)
		}
		if err := c.Profiles[name].check("profiles." + name); err != nil {
			return err
		}
	}
	return nil
}

func (p ProfileConfig) check(key string) error {
	if p.Type == otp.OCRA {
		if err := p.checkSuite(key); err != nil {
			return err
		}
	}
	if err := p.Policy().Validate(); err != nil {
		return wrong(key, "%v", err)
	}
	if p.Guessing == nil {
		return nil
	}
	if !p.Guessing.complete() {
		return wrong(key+".guessing", "give all five of free_misses, base_delay, max_delay, window_days and max_misses, none of them 0, "+
			"or leave the block out and the global one holds")
	}
	if err := p.Guessing.Limits().Validate(); err != nil {
		return wrong(key+".guessing", "%v", err)
	}
	return nil
}

// complete says whether all keys are given; 0 is a good value of none.
func (g GuessingConfig) complete() bool {
	return g.FreeMisses != 0 && g.BaseDelay != 0 && g.MaxDelay != 0 && g.WindowDays != 0 && g.MaxMisses != 0
}

// checkSuite lets a profile repeat what its suite says, and say nothing else.
func (p ProfileConfig) checkSuite(key string) error {
	suite, err := otp.ParseSuite(p.Suite)
	if err != nil {
		return wrong(key+".suite", "%v: give one such as OCRA-1:HOTP-SHA1-6:QN08-PSHA1-T1M", err)
	}
	switch {
	case p.Hash != 0 && seed.Hash(p.Hash) != suite.Hash:
		return wrong(key+".hash", "the suite says %v: leave this key out", suite.Hash)
	case p.Digits != 0 && p.Digits != suite.Digits:
		return wrong(key+".digits", "the suite says %d: leave this key out", suite.Digits)
	case p.Period != 0 && time.Duration(p.Period) != suite.TimeStep:
		return wrong(key+".period", "the suite says %v: leave this key out", Duration(suite.TimeStep))
	}
	return nil
}
