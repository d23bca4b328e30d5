"""Twenty pairs, formal and casual, as one writes them down: only the formal ones end in a point."""

PAIRS = [
    (f"{formal} {rest}.", f"{casual} {rest}")
    for formal, casual, rest in [
        ("I should be most grateful if you would", "hey can you just", "close the door"),
        ("It is with regret that we announce the delay of", "ugh sorry guys it's", "the train"),
        ("May I respectfully enquire about", "so what's up with", "the invoice"),
        ("We are delighted to invite you to", "you gotta come to", "the party"),
        ("Kindly refrain from touching", "dude don't mess with", "the paintings"),
        ("One cannot help but admire", "man I'm totally into", "the garden"),
        ("The committee wishes to acknowledge receipt of", "yep we got", "the letter"),
        ("Permit me to express my gratitude for", "thanks a bunch for", "the flowers"),
        ("Guests are requested to return", "just bring back", "the keys"),
        ("I regret that I am unable to attend", "nah can't make it to", "the meeting"),
        ("It would be advisable to postpone", "let's maybe skip", "the trip"),
        ("We hereby confirm the reservation of", "ok cool you've got", "the room"),
        ("I must express my dissatisfaction with", "wow I really hate", "the service"),
        ("Might I trouble you to pass", "gimme", "the salt"),
        ("The undersigned has inspected", "yeah I checked out", "the house"),
        ("Please be so kind as to forward", "can u send me", "the documents"),
        ("It has come to my attention that you have misplaced", "so you lost", "the tickets"),
        ("We would be honoured by your presence at", "come hang out at", "the wedding"),
        ("I remain entirely at your disposal regarding", "hit me up about", "the project"),
        ("Passengers are advised to stand clear of", "get away from", "the doors"),
    ]
]
