package api

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"reflect"

	"github.com/danielgtaylor/huma/v2"
	"github.com/gofiber/fiber/v2"
	"github.com/valyala/fasthttp"

	"ramzban/api/wire"
	"ramzban/keyservice"
	"ramzban/keyservice/authz"
)

const seedsPath = "/v1/seed-imports/"

// seedRoute registers the import of seeds in clear. It is a plain Fiber route, for what huma reads lies in buffers that nobody
// wipes; so it is documented by hand.
func (s *Server) seedRoute() {
	r := route{
		method: post, path: seedsPath + "{id}", id: "import-clear-seeds", role: authz.Officer, status: http.StatusOK, body: true,
		summary: "Import a maker's seeds in clear",
		description: fmt.Sprintf("For hardware tokens whose maker does not wrap seeds. Two officers agree on the file by its SHA-256, with a proposal "+
			"`%s`; within seven days one of them sends it, byte for byte: one JSON document per line, at most %d lines and %d KiB. Each seed is "+
			"wrapped to the import key, and forgotten. The answer is what the maker should have delivered: `maker_seed` is given to activation when the "+
			"device is handed out. The file may be sent again; the log tells of each device once. A node imports one file at a time.",
			keyservice.ActionImportClear, keyservice.MaxClearSeeds, keyservice.MaxClearFile>>10),
		codes: []keyservice.Code{
			keyservice.CodeProposalClosed, keyservice.CodeNotOfficer, keyservice.CodeDocumentInvalid, keyservice.CodeSeedInvalid, keyservice.CodeTampered,
			keyservice.CodeBusy,
		},
	}
	s.routes.long[r.method+" "+r.path] = true
	op := s.seedOperation(r)
	s.huma.OpenAPI().AddOperation(&op)
	s.app.Add(post, seedsPath+":id", s.importSeeds)
}

func (s *Server) seedOperation(r route) huma.Operation {
	all := s.huma.OpenAPI().Components.Schemas
	op := r.operation(s.huma)
	op.Parameters = []*huma.Param{{
		Name: "id", In: "path", Required: true, Description: "The proposal " + keyservice.ActionImportClear + " that opened the import",
		Schema: &huma.Schema{Type: huma.TypeString}, Example: "5d0f6f3c1b7e49a2b8a1c2d3e4f50617",
	}}
	op.RequestBody = &huma.RequestBody{Required: true, Description: "The file", Content: map[string]*huma.MediaType{
		ndjsonType: {Schema: all.Schema(reflect.TypeFor[wire.ClearSeed](), true, "")},
	}}
	op.Responses["200"] = &huma.Response{Description: "The seeds, wrapped", Content: map[string]*huma.MediaType{
		"application/json": {Schema: all.Schema(reflect.TypeFor[wire.SeedImportAnswer](), true, "")},
	}}
	return op
}

// importSeeds imports a file: who may not is refused before anything is read.
func (s *Server) importSeeds(c *fiber.Ctx) error {
	ctx, x := c.Context(), exchangeOf(c.Context())
	if err := s.Service.MayImportClear(c.UserContext(), x.caller); err != nil {
		refuse(c.UserContext(), err).write(ctx)
		return nil
	}
	file, err := readFile(ctx.RequestBodyStream(), keyservice.MaxClearFile)
	defer clear(file)
	if err != nil {
		connectionProblem(x, err).write(ctx)
		return nil
	}
	x.unread = false
	made, err := s.Service.ImportClear(c.UserContext(), x.caller, c.Params("id"), file)
	if err != nil {
		refuse(c.UserContext(), err).write(ctx)
		return nil
	}
	ctx.Response.Header.SetContentType("application/json")
	return jsonFormat.Marshal(ctx, seedsAnswer(made))
}

// firstRead is how much of a file gets room before any of it is there, in bytes.
const firstRead = 4 << 10

// readFile reads a body into a buffer that grows with what arrives: who sends nothing takes no memory. What it grows out of is
// wiped.
func readFile(in io.Reader, limit int) ([]byte, error) {
	file := make([]byte, 0, firstRead)
	for {
		n, err := in.Read(file[len(file):cap(file)])
		file = file[:len(file)+n]
		switch {
		case len(file) > limit:
			return file, fasthttp.ErrBodyTooLarge
		case errors.Is(err, io.EOF):
			return file, nil
		case err != nil:
			return file, err
		}
		if len(file) == cap(file) {
			grown := append(make([]byte, 0, min(2*cap(file), limit+1)), file...)
			clear(file)
			file = grown
		}
	}
}

func seedsAnswer(made []keyservice.WrappedSeed) wire.SeedImportAnswer {
	a := wire.SeedImportAnswer{Seeds: make([]wire.ImportedSeed, len(made))}
	for i, m := range made {
		a.Seeds[i] = wire.ImportedSeed{Device: m.Device, Hash: m.Hash.String(), MakerSeed: m.MakerSeed, Refused: string(m.Refused)}
		if m.MakerSeed != nil {
			sum := sha256.Sum256(m.MakerSeed)
			a.Seeds[i].DeviceKeySHA256 = hex.EncodeToString(sum[:])
		}
	}
	return a
}
