"""The pack's page in ComfyUI's settings dialog: what is chosen there reaches the server, is kept, and cannot be nonsense."""

from __future__ import annotations

from typing import Any

from front_end import NEEDS_A_BROWSER, command, load, setting

pytestmark = NEEDS_A_BROWSER


def open_dialog(page: Any) -> None:
    command(page, "Comfy.ShowSettingsDialog")
    page.get_by_role("button", name="Residency", exact=True).or_(page.get_by_text("Residency", exact=True)).first.click()
    page.get_by_text("VRAM headroom", exact=True).wait_for()


def field(page: Any, name: str) -> Any:
    return page.locator(f"[id='residency.{name}']").first


def choose(page: Any, name: str, word: str) -> None:
    field(page, name).click()
    page.get_by_role("option", name=word, exact=True).click()


def on_server(page: Any, comfy_server: Any) -> dict[str, Any]:
    found: dict[str, Any] = page.request.get(f"{comfy_server.url}/residency/settings").json()
    return found


def test_what_is_chosen_in_the_dialog_reaches_the_server_and_is_there_after_a_reload(page: Any, comfy_server: Any) -> None:
    open_dialog(page)
    with page.expect_response(lambda response: "/residency/settings" in response.url and response.request.method == "POST") as answer:
        choose(page, "vram_headroom_gib", "1.5 GiB")
    assert answer.value.status == 200
    assert on_server(page, comfy_server)["vram_headroom_gib"] == 1.5

    load(page, comfy_server.url)
    open_dialog(page)
    assert field(page, "vram_headroom_gib").inner_text().strip() == "1.5 GiB"


def test_what_stands_for_automatic_off_and_never_is_a_word_and_the_memory_mode_comes_first(page: Any, comfy_server: Any) -> None:
    for name in ("vram_headroom_gib", "ram_budget_gib", "pin_budget_gib", "read_threads", "queue_depth", "idle_release_min"):
        setting(page, f"residency.{name}", 0)
    open_dialog(page)
    names = ("vram_headroom_gib", "ram_budget_gib", "pin_budget_gib", "read_threads", "queue_depth", "idle_release_min")
    words = {name: field(page, name).inner_text().strip() for name in names}
    assert words == {
        "vram_headroom_gib": "off",
        "ram_budget_gib": "automatic",
        "pin_budget_gib": "automatic",
        "read_threads": "automatic",
        "queue_depth": "off",
        "idle_release_min": "never",
    }
    tops = {name: field(page, name).bounding_box()["y"] for name in ("mode", *names)}
    assert min(tops, key=tops.__getitem__) == "mode"
    setting(page, "residency.queue_depth", 3)


def test_a_number_that_a_program_has_set_is_shown_though_it_is_none_of_the_choices(page: Any, comfy_server: Any) -> None:
    setting(page, "residency.ram_budget_gib", 13.25)
    open_dialog(page)
    assert field(page, "ram_budget_gib").inner_text().strip() == "13.25 GiB"
    setting(page, "residency.ram_budget_gib", 0)


def test_the_server_refuses_what_a_script_sets_and_the_browser_goes_back(page: Any, comfy_server: Any) -> None:
    with page.expect_response(lambda response: response.url.endswith("/residency/settings") and response.status == 400):
        setting(page, "residency.queue_depth", -4)
    # .first: newer front ends say a toast to screen readers too
    page.get_by_text("queue_depth is -4; choose a whole number from 0 to 64").first.wait_for()
    page.wait_for_function("() => window.app.extensionManager.setting.get('residency.queue_depth') === 3")
    assert on_server(page, comfy_server)["queue_depth"] == 3


def test_the_mode_is_one_whether_chosen_in_the_dialog_or_in_the_panel(page: Any, comfy_server: Any) -> None:
    command(page, "Residency.ShowTimeline")
    mode = page.locator(".residency select[aria-label='Memory mode']")
    mode.wait_for()
    setting(page, "residency.mode", "low-vram")
    page.wait_for_function("() => document.querySelector('.residency select').value === 'low-vram'")

    with page.expect_response("**/residency/mode"):
        mode.select_option("balanced")
    page.wait_for_function("() => window.app.extensionManager.setting.get('residency.mode') === 'balanced'")
    assert on_server(page, comfy_server)["mode"] == "balanced"


def test_a_browser_that_was_never_asked_shows_what_a_program_has_set(page: Any, comfy_server: Any) -> None:
    page.request.post(f"{comfy_server.url}/residency/settings", data={"idle_release_min": 45})
    load(page, comfy_server.url)
    page.wait_for_function("() => window.app.extensionManager.setting.get('residency.idle_release_min') === 45")
    assert on_server(page, comfy_server)["idle_release_min"] == 45


def test_the_dialog_speaks_the_users_language(page: Any, comfy_server: Any) -> None:
    setting(page, "Comfy.Locale", "ja")
    try:
        load(page, comfy_server.url)
        command(page, "Comfy.ShowSettingsDialog")
        page.get_by_text("Residency", exact=True).first.click()
        page.get_by_text("メモリモード").first.wait_for()
    finally:
        setting(page, "Comfy.Locale", "en")
